// Package target decides which processes and which files matter.
//
// It has three jobs. It turns --target into rules that the kernel obeys (Spec, Selection). It finds the TLS libraries
// that selected processes map, and hands each file on once, with everything a probe needs (Watcher, File). And it
// tells people why a process that talks TLS is not decoded (Explainer).
//
//	start scan ─┐
//	exec event ─┤                   ┌▶ /proc/PID/maps ─▶ the table, by name ─┐
//	mapping ────┼▶ is it selected? ─┤                                        ├▶ open, verify, read ELF ─▶ File ─▶ Sink
//	reconcile  ─┤                   └▶ /proc/PID/exe ──▶ what it carries ────┘
//	unbound ────┘
//
// The kernel tells of each executable mapping as it is made (perf MMAP2 records), so that a library is known within a
// millisecond of its mapping. The records are about every process of the host: one whose file name is not in the table
// is dropped where it is read, and one of a process outside the selection before anything of that process is opened.
// Where perf events are refused, a process is read again 5 ms, 50 ms, 300 ms and 1 s after its exec instead, and
// MappingRung says "poll".
//
// What a probe costs is decided by the instruction under it: the kernel emulates a push or a jump, and executes most
// others out of line, with a debug trap, at five times the price. So each place says its Class. Behind an endbr64 the
// push is taken. A program that reads arguments and needs no return (BIO_write's) goes on to the first emulated
// instruction that every call passes with its arguments in place (ahead.go). Where OpenSSL's SSL_read begins with
// something dear, the function that does the work for SSL_read and SSL_read_ex alike is looked for in their code
// (Site.Inner): all paths through both are followed, and it is found only if on each path that succeeds both call it,
// directly, once, with arguments that are proven to be theirs, if SSL_peek does not call it, and if a symbol table, where
// there is one, agrees. Any doubt is a refusal with a reason (Site.NoInner), and then the probes stay at the entry. Who
// attaches has the last word: live calls must show there what they showed at the entry.
//
// A breakpoint that is set for all lies in every process that maps the file, selected or not. So a process on the denylist
// (--deny) is looked at like the others, and what it maps is not handed on but noted: such a file is attached to each other
// process on its own, for as long as a denied process maps it and a minute more.
//
// Everything here was made by the watched program: its paths, its links, its ELF files. So nothing follows a path as
// root without asking the kernel to stay inside the process's root, every file is verified after it was opened, and an
// ELF reader has a budget of bytes and time. The reader takes an io.ReaderAt and can move to a process without rights.
//
// Who owns what: the Watcher's goroutine owns the list of processes; a second one, which ends with Run, reads the rings
// of mappings and hands on over a bounded channel; a File's handle belongs to the Watcher and is closed when Sink.Use
// returns; Selection owns the descriptors of cgroups and namespaces until Close.
//
// What is lost when: mappings that the kernel or the channel has no room for are counted, and everything is looked at
// again within a second; a library that is mapped and gone between two looks is never seen; the calls of a process
// before its library was attached are unseen; a file that breaks the budget is reported as failed with that reason.
package target
