// Package probe owns every uprobe: it attaches once per real file, however many processes map it, and lets go when
// nobody has mapped it for a while.
//
//	            Use (first)        in one process          in all
//	(nothing) ─────────────▶ attaching ─▶ canary ──1 s──▶ attached ◀──────┐ Use
//	                           ▲ │ │  the build is known: ──▶ │ last Drop  │
//	                           │ │ │                          └─▶ draining ──30 s──▶ (detached, forgotten)
//	                           │ │ │ the writer is done:      │
//	                           │ │ │ itself, or Use           │ somebody opens it for writing, or wrote into it
//	                           │ │ └─ failed: being written ◀─┤ (detached at once)
//	                           │ │        └──last Drop, then 30 s──▶ (forgotten)
//	                           │ │ error                      │
//	                           │ ▼                            │
//	                           failed ──Use, 10 min later (20 s, where the host was short of something)──▶ attaching
//	                             └──last Drop, then 10 min──▶ (forgotten)
//	                                                          │
//	          attaching ◀──Use, when its time is over── suspended ◀─ Suspend ─┤ (from every phase but denied)
//	          attaching ◀──Use, once Allow was called── denied    ◀─ Deny ────┘ (from every phase)
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
// A build that is new on this host is probed in one process first, for a second, or until it had 16 hits, but for 0.2 s
// after the first of them. If the process ends meanwhile the next one is tried; where nobody maps the file it is attached
// for all, and whoever comes is seen from his first call. A canary that makes no call in its second shows nothing: all others
// follow, and State says that it is not shown yet. What had 16 hits and no blame for 10 s after its first is remembered in
// probes.json, by build id. The others who map a new build are not seen while there is a canary, and State says so. Before
// Linux 6.10 (and the stable kernels that have its fix) uprobe_multi takes one thread for one process: of a canary only the
// first thread is seen there.
//
// A function may have a cheaper place inside (target.Site.Inner). It is taken in steps that lose nothing and double
// nothing, since the programs make one call of what is seen at both:
//
//	entry ─▶ entry, and ssl_check inside ──16 live calls are the same there──▶ inside and entry ─▶ inside
//	               ▲      └──more than 1 in 16 of 128 are not──▶ entry         (return probes of the entry go 30 s later)
//	               └──────── after 1 h, and 8 h more ────────────┘ (then never)
//
// Reads and writes are decided on their own, and remembered in probes.json, so that the next attachment goes there at once.
//
// Each program at a kind of place in a file has a slot, which is its attach cookie: by it hits are counted, and a crash
// names the file whose call it came in. Hits times what a hit costs is what a file costs (Costs). Perf events before Linux
// 5.15 have no cookies: nothing is counted by file there, and no cheaper place is verified.
//
// A suspension is of a file, not of what is attached: it holds for whoever maps the file meanwhile, in one process or in
// all. Each of those who suspend it takes back his own (Resume), and it is attached again when none is left.
//
// What did harm is denied by build id, in denied.json, which people may read and edit: what is taken off the list is
// attached again within seconds. A file without one, or into which others than root may write, is denied by its inode: it
// could have been made with the build id of the host's library. What is learned of such a file is of that file, too. An
// inode is named by a device, which may have another number after a reboot: then such a file is probed once more. A list that cannot be read ends the start of the agent, for an empty one would let the
// probes back in. A file that a process maps which must have no probe is attached to each other process alone (Alone).
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
// At the end all links are let go of at once: 500 files with 6,500 links in 2.3 s.
//
// What is lost when: a call that is inside SSL_read when its probes move to the cheaper place, and returns more than 30 s
// later, is not seen; that happens once for each build. Of a file that turns out to be mapped by a denied process the
// others' calls are missed until each is attached on its own, which takes milliseconds; a process that starts later is
// attached when it is discovered, so that its first calls may be missed, and a child without an exec within 3 s. A denied
// process that starts while a library is attached for all has breakpoints for about 2 ms. A file that cannot be attached stays in List as failed, with what, why and what to do in one line.
// While somebody has a file open for writing, its programs are not seen. If he leaves what was there they are seen again
// 15 to 30 ms after he closes it; what is new is attached when a program maps it, or within about 3 s.
package probe
