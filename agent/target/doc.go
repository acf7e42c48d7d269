// Package target decides which processes and which files matter.
//
// It has three jobs. It turns --target into rules that the kernel obeys (Spec, Selection). It finds the TLS libraries
// that selected processes map, and hands each file on once, with everything a probe needs (Watcher, File). And it
// tells people why a process that talks TLS is not decoded (Explainer).
//
//	start scan ─┐
//	exec event ─┼▶ /proc/PID/maps ─▶ table of libraries ─▶ open, verify, read ELF ─▶ File{fd, build-id, sites} ─▶ Sink
//	reconcile  ─┘       (a process is read again 5 ms, 50 ms, 300 ms and 1 s after its exec, because
//	                     libraries are mapped after the kernel says "exec")
//
// Everything here was made by the watched program: its paths, its links, its ELF files. So nothing follows a path as
// root without asking the kernel to stay inside the process's root, every file is verified after it was opened, and an
// ELF reader has a budget of bytes and time. The reader takes an io.ReaderAt and can move to a process without rights.
//
// Who owns what: the Watcher's goroutine owns the list of processes; a File's handle belongs to the Watcher and is
// closed when Sink.Use returns; Selection owns the descriptors of cgroups and namespaces until Close.
//
// What is lost when: a library that is mapped and gone between two looks is never seen (counted nowhere: nobody saw
// it); the calls of a process before its library was attached are unseen; a file that breaks the budget is reported as
// failed with that reason.
package target
