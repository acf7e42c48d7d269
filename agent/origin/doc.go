// Package origin says who is at an end of a connection: which program, which container, which pod.
//
// The kernel names a process by its id and start time. Everything else is read from procfs once, when the process is
// first heard of, and kept with the time from which it holds, because the question comes later than the fact:
//
//	exec nginx      bytes      exec sh       exit            question about the bytes
//	────┬─────────────┬──────────┬────────────┬──────────────────────┬──────▶ time since boot
//	    └── "nginx" ──┴──────────┘── "sh" ────┘   kept for 5 minutes  └─▶ "nginx"
//
// Who owns what: Cache is safe for concurrent use; the control events write it, the data path reads it.
//
// What is lost when: of a process that was gone before anybody asked, the name that the kernel kept (comm) is all
// there is, and the container where another process of its cgroup was seen. When the cache is full, the process that
// has been silent longest is forgotten, and read again if it speaks.
package origin
