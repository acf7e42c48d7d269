/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The way out. Payload is read from user memory straight into the ring, in the smallest of five sizes. The
 * reader sleeps 10 ms at a time; it is woken early only when the watermark is crossed, because a wake-up costs
 * more than the event. Offsets, sequence and heads advance whether or not the ring had room, so a gap shows.
 */
#ifndef SPILE_RING_H
#define SPILE_RING_H

#define MAX_PAYLOAD 16384
#define MAX_PIECES 16 /* of a call; one per iovec at least */
#define WAKEUP_BYTES (512 << 10)

const volatile __u32 capture_bytes = 65536; /* per call */
const volatile __u32 message_bytes = 65536; /* per message of HTTP/1; HTTP/2 has its heads between the bodies of others */

/* One call that moved bytes. */
struct io {
	__u64 time;
	__u64 buf;     /* user address of the buffer, or of an array of iovecs */
	__u64 iovs;    /* length of that array; 0 = buf is the buffer */
	__u32 length;  /* bytes moved */
	__u8 direction;
	__u8 flags;    /* enum event_flags of the first piece */
	__u8 beyond;   /* 0 = it is a DATA frame of HTTP/2 and nothing else (frames.h) */
	__u8 pad;
};

/* Where one stands in the bytes of a call. */
struct cursor {
	__u64 base; /* of what is left of the current buffer */
	__u64 len;
	__u64 next; /* iovec */
	__u32 left; /* of the call */
	__u32 cap;  /* that may still be read */
};

/* Goes to the next iovec. False where none is left, or it cannot be read. */
static __always_inline bool read_buffer(const struct io *io, struct cursor *at)
{
	struct iovec iov;

	if (at->next >= io->iovs || bpf_probe_read_user(&iov, sizeof(iov), (void *)(io->buf + at->next * sizeof(iov))))
		return false;
	at->next++;
	at->base = iov.base;
	at->len = iov.len;
	return true;
}

struct event_64 { struct event e; __u8 data[64]; };
struct event_256 { struct event e; __u8 data[256]; };
struct event_1k { struct event e; __u8 data[1024]; };
struct event_4k { struct event e; __u8 data[4096]; };
struct event_16k { struct event e; __u8 data[MAX_PAYLOAD]; };

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 32 << 20);
} data_ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} control_ring SEC(".maps");

static __always_inline __u64 wakeup(void *ring, __u64 size)
{
	__u64 waiting = bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA);

	return waiting >= WAKEUP_BYTES && waiting - size < WAKEUP_BYTES ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP;
}

static __always_inline void describe(struct event *e, const struct stream *s)
{
	e->stream = s->id;
	e->conn = s->conn;
	e->conn_birth = s->conn_birth;
	e->cgroup = s->cgroup;
	e->start = s->start;
	e->tgid = s->tgid;
	e->tid = s->tid;
	e->netns = s->netns;
	e->local_port = s->local_port;
	e->remote_port = s->remote_port;
	__builtin_memcpy(e->local, s->local, sizeof(e->local));
	__builtin_memcpy(e->remote, s->remote, sizeof(e->remote));
	__builtin_memcpy(e->comm, s->comm, sizeof(e->comm));
	e->layer = s->layer;
}

/* n <= size must hold in a form that the verifier keeps: clang 14 drops a plain comparison it can prove. */
#define FILL(type, size)                                                               \
	do {                                                                           \
		struct type *big = bpf_ringbuf_reserve(&data_ring, sizeof(*big), 0);    \
		if (!big)                                                              \
			break;                                                         \
		reserved = sizeof(*big);                                               \
		e = &big->e;                                                           \
		asm volatile("" : "+r"(n));                                            \
		if (n > size)                                                          \
			n = size;                                                      \
		if (n && bpf_probe_read_user(big->data, n, (void *)base)) {            \
			count(LOST_USER_FAULTS, 1);                                    \
			count(LOST_USER_FAULT_BYTES, n);                               \
			flags |= FLAG_FAULT;                                           \
			n = 0;                                                         \
		}                                                                      \
	} while (0)

/* Hands on one piece: `length` bytes moved, the first n of them are at user address `base`. */
static __noinline __attribute__((unused)) int emit_piece(struct stream *s, struct io *io, __u64 base, __u32 n, __u32 length)
{
	__u32 d = io->direction & 1, reserved = 0;
	__u8 flags = io->flags | s->flags;
	struct event *e = NULL;

	if (length > n && !(flags & (FLAG_UNSEEN | FLAG_FAULT | FLAG_SHED))) {
		flags |= FLAG_TRUNCATED;
		count(LOST_TRUNCATED_BYTES, length - n);
	}
	s->heads[d] += s->begun[d];
	if (n <= 64)
		FILL(event_64, 64);
	else if (n <= 256)
		FILL(event_256, 256);
	else if (n <= 1024)
		FILL(event_1k, 1024);
	else if (n <= 4096)
		FILL(event_4k, 4096);
	else
		FILL(event_16k, MAX_PAYLOAD);
	/* What the verifier knows of n differs by size; forgotten (see emit), it walks the rest once. */
	bpf_probe_read_kernel(&n, sizeof(n), &n);
	if (!e) {
		count(LOST_RING_FULL, 1);
		count(LOST_RING_FULL_BYTES, length);
		count(LOST_RING_FULL_HEADS, s->begun[d]);
		lose(s->cgroup, LOSS_RING_FULL, length, s->begun[d]);
	} else {
		describe(e, s);
		e->time = io->time;
		e->offset = s->offset[d];
		e->peer_offset = 0;
		e->seq = s->seq[d];
		e->length = length;
		e->captured = n;
		s->taken[d] += n;
		e->heads = s->heads[d];
		e->peer_heads = 0;
		e->kind = EVENT_DATA;
		e->direction = d;
		e->flags = flags;
		bpf_ringbuf_submit(e, wakeup(&data_ring, reserved));
		count(COUNT_EVENTS, 1);
		count(COUNT_BYTES_READ, n);
		if (flags & FLAG_UNBOUND)
			count(COUNT_UNBOUND_EVENTS, 1);
	}
	s->offset[d] += length;
	s->seq[d]++;
	io->flags &= ~FLAG_HEAD;
	s->begun[d] = 0;
	return 0;
}

/* Tells what is known of a stream by now, without a byte. */
static __noinline __attribute__((unused)) int emit_note(struct stream *s)
{
	struct event *e = bpf_ringbuf_reserve(&data_ring, sizeof(*e), 0);
	__u32 seq = s->seq[DIRECTION_EGRESS]++;

	if (!e) /* the next bytes tell it too */
		return 0;
	describe(e, s);
	e->time = bpf_ktime_get_boot_ns();
	e->offset = s->offset[DIRECTION_EGRESS];
	e->peer_offset = 0;
	e->seq = seq;
	e->length = 0;
	e->captured = 0;
	e->heads = s->heads[DIRECTION_EGRESS];
	e->peer_heads = 0;
	e->kind = EVENT_DATA;
	e->direction = DIRECTION_EGRESS;
	e->flags = s->flags;
	bpf_ringbuf_submit(e, BPF_RB_NO_WAKEUP);
	count(COUNT_EVENTS, 1);
	return 0;
}

/* Tells that a stream has ended, if it ever said or lost anything. */
static __noinline __attribute__((unused)) int emit_close(struct stream *s)
{
	struct event *e;

	if (!(s->seq[0] | s->seq[1]))
		return 0;
	bpf_map_delete_elem(&mutes, &s->id);
	e = bpf_ringbuf_reserve(&control_ring, sizeof(*e), 0);
	if (!e) {
		count(LOST_CONTROL_RING_FULL, 1);
		return 0;
	}
	describe(e, s);
	e->time = bpf_ktime_get_boot_ns();
	e->offset = s->offset[DIRECTION_EGRESS];
	e->peer_offset = s->offset[DIRECTION_INGRESS];
	e->seq = 0;
	e->length = 0;
	e->captured = 0;
	e->heads = s->heads[DIRECTION_EGRESS];
	e->peer_heads = s->heads[DIRECTION_INGRESS];
	e->kind = EVENT_CLOSE;
	e->direction = 0;
	e->flags = s->flags;
	bpf_ringbuf_submit(e, BPF_RB_NO_WAKEUP);
	return 0;
}

#endif
