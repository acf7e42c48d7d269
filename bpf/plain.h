/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Plain bytes that a call into a TLS library moved, on their way to the ring. */
#ifndef SPILE_PLAIN_H
#define SPILE_PLAIN_H

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
	if (!t->sk) {
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
	if (direction == DIRECTION_INGRESS)
		io.time = bpf_ktime_get_boot_ns();
	sniff(&io, &head);
	look(&t->plain, &io, &head);
	return emit(&t->plain, &io);
skip:
	t->plain.offset[direction & 1] += n;
	return 0;
}

#endif
