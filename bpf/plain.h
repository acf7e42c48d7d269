/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Plain bytes that a call into a TLS library moved, on their way to the ring. */
#ifndef SPILE_PLAIN_H
#define SPILE_PLAIN_H

/* Ciphertext that no plain bytes go with: alerts, tickets, key updates. */
#define SLACK_BYTES 4096

/*
 * Plain bytes came: the ciphertext that waited for them is decoded. A write that has not sent yet (Go, memory BIO) lets
 * as much pass as it needs.
 */
static __noinline int cover(struct tls_stream *t, __u64 unsent)
{
	__u64 sk = t->sk, left;
	struct conn *c = bpf_map_lookup_elem(&conns, &sk);
	struct coverage *v;

	if (!c || c->plain.conn != t->plain.conn)
		return 0;
	/* What passed before a stream was read is not decoded, unless that was its handshake. */
	if (c->pending && (c->covered || (t->plain.flags & FLAG_FRESH))) {
		v = coverage_of(&c->plain);
		if (v)
			__sync_fetch_and_add(&v->decoded, c->pending);
	}
	left = unsent && c->slack > c->idle ? c->slack - c->idle : 0;
	c->slack = (left > SLACK_BYTES ? left : SLACK_BYTES) + unsent + unsent / 8;
	c->pending = 0;
	c->idle = 0;
	c->covered = 1;
	return 0;
}

/* A call of the current task moved n plain bytes. */
static __noinline int tls_io(struct tls_call *call, __u32 n, __u8 direction)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct tls_key key = {.ssl = call->ssl, .tgid = pid_tgid >> 32};
	struct io io = {.time = call->time, .buf = call->buf, .length = n, .direction = direction};
	struct tls_stream *t = stream_of(&key);
	struct coverage *c;
	union head head;

	if (!t || t->refused)
		return 0;
	own(&t->plain, task, pid_tgid);
	if (direction == DIRECTION_INGRESS)
		io.time = bpf_ktime_get_boot_ns();
	t->seen = io.time;
	if (t->sk) {
		cover(t, direction == DIRECTION_EGRESS && !call->sent ? n : 0);
	} else {
		if (has_rules(KIND_PORT)) {
			count(COUNT_UNDECIDED_PORT, 1);
			goto skip;
		}
		if (t->handshake)
			t->plain.flags |= FLAG_FRESH;
		c = coverage_of(&t->plain);
		if (c)
			__sync_fetch_and_add(&c->unbound, n);
	}
	if (muted(&t->plain)) {
		count(COUNT_MUTED_BYTES, n);
		goto skip;
	}
	sniff(&io, &head);
	look(&t->plain, &io, &head);
	return emit(&t->plain, &io);
skip:
	t->plain.offset[direction & 1] += n;
	return 0;
}

#endif
