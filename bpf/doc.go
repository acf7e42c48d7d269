// Package bpf is the kernel side: the programs, their maps, and the Go that loads them and reads what they say.
//
// Four objects share their maps. Each program hooks one place and calls a handler in a header:
//
//	proc.bpf.c   raw_tp sched_process_{exec,fork,exit}; iter/task      who runs what
//	sock.bpf.c   tp_btf inet_sock_set_state, tcp_destroy_sock          a connection's life
//	             iter/task_file                                        connections that are older than the hooks
//	             one rung of: tp_btf sock_{send,recv}_length (6.3)     bytes of a socket, and which thread moved them
//	                          k(ret)probe tcp_{sendmsg,recvmsg,sendpage}
//	                          raw_tp sys_exit (any kernel with BTF)
//	tls.bpf.c    uprobes of SSL_*, gnutls_*, BIO_write                 plain bytes inside a C TLS library
//	gotls.bpf.c  uprobes of crypto/tls                                 plain bytes inside a Go program
//
// The probes of both TLS objects are attached by agent/probe.
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
// A TLS object (an SSL *, a gnutls_session_t, a *tls.Conn of Go) belongs to the socket
//
//	nested     through which the thread, or the goroutine, moves TLS records inside the object's call
//	by prefix  that sends the first 32 bytes of a record which the object wrote into memory during a call (BIO_write)
//	by length  whose records are, three times in a row, as long as what the object read or wrote, plus what the cipher adds
//
// in this order of trust. No offset of a library's struct is used and no peer is guessed: without a socket an event says
// FLAG_UNBOUND, and once there is one, an event without bytes tells it.
//
// Coverage counts, per process, the bytes of TLS records at its sockets and the part of them on connections whose plain
// bytes are read; QUIC is recognised by its Initial packet and counted, never read.
//
// What is copied is bounded: per read or write, per message of HTTP/1, per second and cgroup. HTTP/2 has the heads of some
// messages between the bodies of others, so there only the first and the last bound hold.
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
