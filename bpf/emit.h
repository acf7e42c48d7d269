/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* How much of a call is handed on: what the policy, the budget and the room in the ring let pass. */
#ifndef SPILE_EMIT_H
#define SPILE_EMIT_H

#define EVENT_BYTES 256 /* that a small event takes in the ring, at most: many of them fill it too */

const volatile __u64 pressure_bytes = 24 << 20; /* in the ring, from which on a cgroup gets its share only */

/* Bytes that the cgroup may not cost: like a full ring, they show as a gap with a place and a number of heads. */
static __noinline __attribute__((unused)) int refuse_bytes(struct stream *s, __u32 d, __u32 length, __u32 reason)
{
	__u32 heads = s->begun[d & 1];

	d &= 1;
	if (reason == LOSS_BUDGET) {
		count(LOST_BUDGET_CALLS, 1);
		count(LOST_BUDGET_BYTES, length);
		count(LOST_BUDGET_HEADS, heads);
	} else {
		count(LOST_PRESSURE_CALLS, 1);
		count(LOST_PRESSURE_BYTES, length);
		count(LOST_PRESSURE_HEADS, heads);
	}
	lose(s->cgroup, reason, length, heads);
	s->heads[d] += heads;
	s->begun[d] = 0;
	s->offset[d] += length;
	s->seq[d]++;
	return 0;
}

/* What may be copied of the n bytes of a call: `first` of them, and more while the cgroup's bodies are within their budget. */
static __always_inline __u32 within(const struct stream *s, __u32 n, __u32 first, __u32 most)
{
	if (n > most)
		n = most;
	if (n <= first)
		return n;
	if (s->shed & SHED_BODIES)
		return first;
	if (body_bytes && !afford_body(s->cgroup, n - first)) {
		count(COUNT_BRIEF_BODIES, 1);
		return first;
	}
	return n;
}

/* What may still be copied of the message at hand; `body` says that a buffer of HTTP/2 holds nothing else. */
static __always_inline __u32 allowance(const struct stream *s, __u32 d, __u32 n, bool body)
{
	__u32 taken = s->taken[d];

	if (n > capture_bytes)
		n = capture_bytes;
	if (body)
		return within(s, n, BRIEF_DATA_BYTES, n);
	if (!(s->capped & (1 << d)))
		return n;
	if (taken >= message_bytes)
		return 0;
	return within(s, n, taken < BRIEF_MESSAGE_BYTES ? BRIEF_MESSAGE_BYTES - taken : 0, message_bytes - taken);
}

/* Steps over used up and empty iovecs. False where no buffer is left, or it cannot be read. */
static __always_inline bool next_buffer(struct io *io, struct cursor *at)
{
	if (at->next >= io->iovs)
		return false;
	if (!read_buffer(io, at)) {
		count(LOST_USER_FAULTS, 1);
		count(LOST_USER_FAULT_BYTES, at->left);
		io->flags |= FLAG_FAULT;
		return false;
	}
	return true;
}

/* Hands on all bytes of one call: pieces of at most MAX_PAYLOAD, capture_bytes in all; the last carries the rest. */
static __noinline __attribute__((unused)) int emit(struct stream *s, struct io *io)
{
	__u32 d = io->direction & 1;
	struct cursor at = {};

	follow_policy(s);
	if (s->shed & SHED_SAMPLED)
		return pass_by(s, d, io->length);
	if (bpf_ringbuf_query(&data_ring, BPF_RB_AVAIL_DATA) > pressure_bytes) {
		/* Also what is only told takes room, and heads take the reader's time: thirty may be in one small write. */
		__u32 n = io->length < message_bytes ? io->length : message_bytes;
		/* Behind lost frames it is what the stream's number tells, and whoever sends chooses that. */
		__u32 heads = s->begun[d] < MAX_FRAMES ? s->begun[d] : MAX_FRAMES;

		if (!afford_share(s->cgroup, (io->flags & FLAG_UNSEEN || s->shed & SHED_RESPONSES ? 0 : n) + EVENT_BYTES * (1 + heads)))
			return refuse_bytes(s, d, io->length, LOSS_PRESSURE);
	}
	if ((s->shed & SHED_RESPONSES) && is_response(s, d)) {
		count(COUNT_SHED_BYTES, io->length);
		count(COUNT_SHED_HEADS, s->begun[d]);
		io->flags |= FLAG_SHED;
		return emit_piece(s, io, 0, 0, io->length);
	}
	if (!(io->flags & FLAG_UNSEEN)) {
		at.cap = allowance(s, d, io->length, !io->beyond);
		if (budget_bytes && !afford(s->cgroup, at.cap))
			return refuse_bytes(s, d, io->length, LOSS_BUDGET);
	}
	/*
	 * A copy onto itself makes the verifier forget what it knows of the values, here and in the loop: it would
	 * otherwise try each combination, and give up.
	 */
	bpf_probe_read_kernel(io, sizeof(*io), io);
	at.left = io->length;
	if (io->flags & FLAG_UNSEEN) {
		count(LOST_UNSEEN_BYTES, io->length);
		return emit_piece(s, io, 0, 0, io->length);
	}
	if (!io->iovs) {
		at.base = io->buf;
		at.len = io->length;
	}
	for (int i = 0; i < MAX_PIECES; i++) {
		if (!at.left || !at.cap)
			break;
		if (!at.len) {
			if (!next_buffer(io, &at))
				break;
			if (!at.len)
				continue;
		}
		bpf_probe_read_kernel(&at, sizeof(at), &at);
		__u32 n = at.left < at.cap ? at.left : at.cap;

		if (n > MAX_PAYLOAD)
			n = MAX_PAYLOAD;
		if (n > at.len)
			n = at.len;
		__u32 length = n == at.cap ? at.left : n;

		emit_piece(s, io, at.base, n, length);
		at.base += n;
		at.len -= n;
		at.left -= length;
		at.cap -= n;
	}
	if (at.left)
		emit_piece(s, io, 0, 0, at.left);
	return 0;
}

#endif
