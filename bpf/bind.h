/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Which SSL object uses which socket: the one in whose call a thread moves TLS records through it. Nothing is asked
 * of the library, and what does not nest stays unbound.
 */
#ifndef SPILE_BIND_H
#define SPILE_BIND_H

/* The innermost TLS call that this thread is in. */
static __always_inline struct tls_call *current_call(__u64 pid_tgid)
{
	struct tls_calls *calls = bpf_map_lookup_elem(&tls_calls, &pid_tgid);

	if (!calls || !calls->depth || calls->depth > MAX_CALLS)
		return NULL;
	return call_at(calls, calls->depth - 1);
}

/* The TLS call of this thread moved ciphertext through this socket: they belong together. */
static __noinline int bind(struct tls_call *call, __u64 pid_tgid, struct sock *sk, struct conn *c)
{
	struct tls_key key = {.ssl = call->ssl, .tgid = pid_tgid >> 32};
	struct tls_stream *t = stream_of(&key);

	if (!t || (t->sk == (__u64)sk && t->plain.conn == c->plain.conn))
		return 0;
	if (t->sk) { /* the SSL object was reused: another stream */
		emit_close(&t->plain);
		bpf_map_delete_elem(&tls_streams, &key);
		t = stream_of(&key);
		if (!t)
			return 0;
		t->handshake = call->kind == CALL_HANDSHAKE;
	}
	if (c->tls.ssl && (c->tls.ssl != key.ssl || c->tls.tgid != key.tgid)) {
		struct tls_key old_key = c->tls;
		struct tls_stream *old = bpf_map_lookup_elem(&tls_streams, &old_key);

		if (old && old->sk == (__u64)sk) {
			emit_close(&old->plain);
			bpf_map_delete_elem(&tls_streams, &old_key);
		}
	}
	t->sk = (__u64)sk;
	t->refused = 0;
	t->plain.conn = c->plain.conn;
	t->plain.conn_birth = c->plain.conn_birth;
	t->plain.netns = c->plain.netns;
	t->plain.local_port = c->plain.local_port;
	t->plain.remote_port = c->plain.remote_port;
	__builtin_memcpy(t->plain.local, c->plain.local, 16);
	__builtin_memcpy(t->plain.remote, c->plain.remote, 16);
	t->plain.flags &= ~FLAG_UNBOUND;
	if (t->handshake || (c->fresh && !c->uncovered))
		t->plain.flags |= FLAG_FRESH;
	c->tls = key;
	return 0;
}

/* The TLS call of this thread uses a socket outside the selection: nothing more of it is read. */
static __noinline int refuse(struct tls_call *call, __u64 pid_tgid, struct sock *sk)
{
	struct tls_key key = {.ssl = call->ssl, .tgid = pid_tgid >> 32};
	struct tls_stream *t = stream_of(&key);

	if (t && t->sk && t->sk != (__u64)sk) { /* it had one inside: that stream has ended */
		emit_close(&t->plain);
		bpf_map_delete_elem(&tls_streams, &key);
		t = stream_of(&key);
	}
	if (t)
		t->refused = 1;
	return 0;
}

static __always_inline void count_uncovered(struct conn *c, __u32 tgid, __u64 n)
{
	__u64 *total = bpf_map_lookup_elem(&uncovered, &tgid);

	c->uncovered += n;
	count(COUNT_UNCOVERED_BYTES, n);
	if (total)
		__sync_fetch_and_add(total, n);
	else if (bpf_map_update_elem(&uncovered, &tgid, &n, BPF_NOEXIST))
		count(LOST_UNCOVERED_FULL, 1);
}

/* Ciphertext: explained by a TLS call, or by none. */
static __always_inline void tls_bytes(struct conn *c, struct tls_call *call, __u64 pid_tgid, struct sock *sk,
				      const struct io *io)
{
	__u32 n = io->length;

	count(COUNT_TLS_BYTES, n);
	if (call) {
		if (call->kind != CALL_HANDSHAKE)
			c->covered = 1;
		if (call->kind == CALL_WRITE && io->direction == DIRECTION_EGRESS)
			call->sent = 1;
		bind(call, pid_tgid, sk, c);
	} else if (!c->covered) { /* a server that buffers what it writes sends outside the calls */
		count_uncovered(c, pid_tgid >> 32, n);
	}
}

#endif
