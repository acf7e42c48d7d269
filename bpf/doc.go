// Package bpf is the kernel side: the programs, their maps, and the Go that loads them and reads what they say.
//
// Three objects share their maps. Each program hooks one place and calls a handler in a header:
//
//	proc.bpf.c  raw_tp sched_process_{exec,fork,exit}; iter/task      who runs what
//	sock.bpf.c  tp_btf inet_sock_set_state, tcp_destroy_sock          a connection's life
//	            one rung of: tp_btf sock_{send,recv}_length (6.3)     bytes of a socket, and which thread moved them
//	                         k(ret)probe tcp_{sendmsg,recvmsg,sendpage}
//	                         raw_tp sys_exit (any kernel with BTF)
//	tls.bpf.c   uprobes of SSL_*; attached by agent/probe             plain bytes inside a TLS library
//
// A stream is two directions of plain bytes. It is a whole socket that speaks HTTP, or the inside of one SSL
// object. A socket passes through these states; only HTTP is ever read beyond its first sixteen bytes:
//
//	            HTTP head                         user space: Mute
//	UNKNOWN ───────────────▶ HTTP ──────────────────────────────▶ (not read any more)
//	   │  │                   │ TLS record inside an SSL call (after CONNECT)
//	   │  └── TLS record ───▶ TLS ◀──┐ TLS record inside an SSL call (STARTTLS)
//	   └── 8 buffers or 64 KiB ──▶ MUTED
//
// An SSL object belongs to the socket through which the same thread, inside the SSL call, moved TLS records. No
// offset of a library's struct is used and no peer is guessed: without a socket an event says FLAG_UNBOUND.
//
// What is lost, and who says so: every event carries the offset of its first byte, and offsets, sequence numbers
// and counts of message heads advance also for what could not be handed on, so a gap has an exact place and size;
// every reason has a counter (count.h) that Counts returns by name. Heads are counted where a message begins a
// buffer, so requests that were pipelined into one write count once. The offset of a plain socket follows TCP's
// own sequence numbers, so bytes that pass no hook (splice, io_uring, zero-copy receive) show as a gap too.
//
// Objects owns every link and map. A link whose Go value is dropped is collected and detaches without a word, so
// nothing is returned that could be dropped. When the process ends, by SIGKILL too, the kernel detaches all.
package bpf
