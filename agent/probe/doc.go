// Package probe owns every uprobe: it attaches once per real file, however many processes map it, and lets go when
// nobody has mapped it for a while.
//
//	            Use (first)           ok
//	(nothing) ─────────────▶ attaching ─▶ attached ◀──────┐ Use
//	                           ▲ │  ▲         │ last Drop │
//	                           │ │  │         └──▶ draining ──30 s──▶ (detached, forgotten)
//	                           │ │  │ the writer is done:   │
//	                           │ │  │ itself, or Use        │ somebody opens it for writing, or wrote into it
//	                           │ │  └── failed: being written ◀── attached, draining (detached at once)
//	                           │ │          └──last Drop, then 30 s──▶ (forgotten)
//	                           │ │ error
//	                           │ ▼
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
// The agent must not harm what it watches. A probe is an offset in an inode: where other code is written over a file in
// place (`cp new libssl.so.3`; package managers rename instead), the kernel would put the breakpoints into the middle of
// other instructions of every program that starts. So each file that is attached has a read lease (fcntl(2), F_SETLEASE).
// Whoever opens the file for writing, or truncates it, waits in the kernel until the probes are out and the Registry
// has given up the lease: 60 to 130 ms with uprobe_multi, and 1.4 s with perf events, whose probes go one after another.
// Opened with O_NONBLOCK the file gives EWOULDBLOCK for as long. An agent that is stopped delays the writer for
// fs.lease-break-time, 45 s. The lease is taken first; under it the file is compared with its description; only then is
// it attached, so that in no order of events there is other code under a probe. A file that somebody has open for
// writing already gives no lease and is not attached until he closes it.
//
// Where there are no leases (a file of another user for an agent without CAP_LEASE, fs.leases-enable=0, a file system
// without them), or where the lease does not reach (the layer's file under an overlay, another client of a network file
// system), the size, the times and, where only the change time moved, the code at the sites are looked at once a second
// and at each new user. A program that starts within that second may meet a probe at a wrong place. State.Unleased says
// for which files, and why.
//
// An agent that is killed leaves both to the kernel, which lets go of the descriptors from the highest number down, 45 ms
// for each link (Linux 4.3 to 6.18: the works of a task are run last in, first out). The lease is opened before the links
// and so outlives them: a writer waits for all of it, 0.5 s for a libssl. Only where a lower number became free while the
// file was being attached may a link outlive the lease, by these milliseconds.
//
// There is room for 4,096 files, and for 256 of one user who is not root. Beyond it what failed makes room, then what
// nobody has mapped, the oldest first; where there is neither, a file is counted and State says why it is not attached.
//
// What is lost when: a file that cannot be attached stays in List as failed, with what, why and what to do in one line.
// While somebody has a file open for writing, its programs are not seen. If he leaves what was there they are seen again
// 15 to 30 ms after he closes it; what is new is attached when a program maps it, or within about 3 s.
package probe
