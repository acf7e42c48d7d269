// Package probe owns every uprobe: it attaches once per real file, however many processes map it, and lets go when
// nobody has mapped it for a while.
//
//	            Use (first)           ok
//	(nothing) ─────────────▶ attaching ─▶ attached ◀──────┐ Use
//	                             │            │ last Drop │
//	                             │ error      └──▶ draining ──30 s──▶ (detached, forgotten)
//	                             ▼
//	                           failed ──last Drop, then 10 min──▶ (forgotten; may be tried again)
//
// A probe is put on an inode, and the kernel fires it in every process that maps the inode: filtering by process
// happens in the programs. So a process that starts later is covered from its first call.
//
// Who owns what: the Registry holds every link. A link that no Go value refers to is closed by the garbage collector,
// silently; that is why they all live in one struct. Detaching happens in goroutines that Close waits for, within the
// context it is given; what is left then goes when the process ends. Nothing is pinned.
//
// What is lost when: a file that cannot be attached stays in List as failed, with what, why and what to do. A file
// whose content was overwritten in place is detached at once, for its sites would lie inside other instructions.
package probe
