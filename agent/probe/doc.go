// Package probe owns every uprobe: it attaches once per real file, however many processes map it, and lets go when
// nobody has mapped it for a while.
//
//	            Use (first)           ok
//	(nothing) ─────────────▶ attaching ─▶ attached ◀──────┐ Use
//	                             │            │ last Drop │
//	                             │ error      └──▶ draining ──30 s──▶ (detached, forgotten)
//	                             ▼
//	                           failed ──Use, 10 min later (20 s, where the host was short of something)──▶ attaching
//	                             └──last Drop, then 10 min──▶ (forgotten)
//
// A probe is put on an inode, and the kernel fires it in every process that maps the inode: filtering by process
// happens in the programs. So a process that starts later is covered from its first call. What is wanted in one process
// only (File.Only) is attached to that process, beside what is attached for all, and goes with it at once.
//
// One inode may have two names: an overlay shows a file of its layer under a device of its own. The Registry knows the
// other name by the inode's number, birth and build id, so that a call in a container is one event even where a program
// outside maps the layer's file itself.
//
// The exit of a C function is a return probe. The exits of a Go function are probes on its return instructions, since
// Go's runtime does not find its way over the replaced return address of a return probe.
//
// Who owns what: the Registry holds every link. A link that no Go value refers to is closed by the garbage collector,
// silently; that is why they all live in one struct. Detaching happens in goroutines that Close waits for, within the
// context it is given; what is left then goes when the process ends. Nothing is pinned.
//
// What is lost when: a file that cannot be attached stays in List as failed, with what, why and what to do in one line.
// A file whose content was overwritten in place is detached at once, for its sites would lie inside other instructions.
package probe
