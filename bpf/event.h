/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The wire between kernel and agent: every struct that user space sees.
 * Padding is explicit and sizes are asserted; the Go twin is generated from BTF.
 */
#ifndef SPILE_EVENT_H
#define SPILE_EVENT_H

enum event_kind {
	EVENT_DATA = 1,  /* bytes of a stream, in the data ring */
	EVENT_CLOSE = 2, /* a stream ended; offsets and heads are final; control ring */
	EVENT_EXEC = 3,  /* a process replaced its image; control ring */
	EVENT_EXIT = 4,  /* a process ended; control ring */
	EVENT_CRASH = 5, /* a process ends by a signal, or after one; its fields are in crash.h; control ring */
};

enum crash_flags {
	CRASH_IN_CALL = 1, /* the thread was in a call that a probe had seen begin */
	CRASH_AT_SITE = 2, /* at the instruction that the probe lies on */
	CRASH_IN_AREA = 4, /* in the page that the kernel runs probed instructions in */
	CRASH_BY_SELF = 8, /* the process sent the signal to itself */
};

enum event_layer {
	LAYER_SOCKET = 1, /* plain bytes of a TCP socket */
	LAYER_TLS = 2,    /* plain bytes inside a TLS library */
};

enum event_direction {
	DIRECTION_INGRESS = 0, /* received by the process */
	DIRECTION_EGRESS = 1,  /* sent by the process */
};

enum event_flags {
	FLAG_FRESH = 1,     /* the stream was seen from its first byte */
	FLAG_TRUNCATED = 2, /* captured < length by the cap */
	FLAG_FAULT = 4,     /* user memory could not be read */
	FLAG_UNSEEN = 8,    /* bytes passed by a way that shows no buffer (sendfile, splice, io_uring) */
	FLAG_HEAD = 16,     /* the kernel took the first bytes for the head of an HTTP message, or the preface of HTTP/2 */
	FLAG_UNBOUND = 32,  /* no socket is known: peer = unknown */
	FLAG_SHED = 64,     /* a response that the policy does not let be read; CLOSE: from here on nothing is read */
};

/* The fixed part of every event; `captured` bytes follow. */
struct event {
	__u64 time;       /* ns since boot: when the call that moved the bytes began (send) or ended (receive) */
	__u64 stream;     /* one plaintext byte stream pair; never reused while the agent runs */
	__u64 conn;       /* one TCP connection; 0 = unknown */
	__u64 conn_birth; /* ns since boot when the connection was first seen */
	__u64 offset;     /* of the first byte, in this direction of the stream */
	__u64 peer_offset;/* CLOSE only: final offset of the other direction (offset = EGRESS, peer_offset = INGRESS) */
	__u64 cgroup;     /* cgroup v2 id of the process */
	__u64 start;      /* start time of the process, ns since boot */
	__u32 tgid;
	__u32 tid;
	__u32 netns;      /* inode of the network namespace of the socket, or of the process */
	__u32 seq;        /* per stream and direction, from 0 */
	__u32 length;     /* bytes that moved */
	__u32 captured;   /* bytes that follow */
	__u32 heads;      /* HTTP messages begun in this direction so far, this event included; of HTTP/2 the requests alone */
	__u32 peer_heads; /* CLOSE only: of INGRESS (heads = EGRESS) */
	__u8 local[16];   /* IPv4 as ::ffff:a.b.c.d */
	__u8 remote[16];
	__u16 local_port; /* host order */
	__u16 remote_port;
	__u8 kind;        /* enum event_kind */
	__u8 layer;       /* enum event_layer */
	__u8 direction;   /* enum event_direction */
	__u8 flags;       /* enum event_flags */
	__u8 comm[16];
};

_Static_assert(sizeof(struct event) == 152, "struct event is the wire");

#endif
