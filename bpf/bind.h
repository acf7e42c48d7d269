/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Which TLS stream uses which socket. Nothing is asked of the library and nothing is guessed:
 *   nested    the thread, or the goroutine, moves TLS records through the socket inside the library's call
 *   prefix    the socket sends the very bytes that the library wrote into memory during a call
 * What is neither stays unbound.
 */
#ifndef SPILE_BIND_H
#define SPILE_BIND_H

/* The goroutine that entered the kernel, if the thread runs Go: else whatever the register holds, which no call knows. */
static __always_inline __u64 goroutine(struct pt_regs *regs)
{
#if defined(__TARGET_ARCH_x86)
	return regs ? BPF_CORE_READ(regs, r14) : 0;
#else
	return regs ? BPF_CORE_READ(regs, user_regs.regs[28]) : 0;
#endif
}

/* The innermost TLS call that this thread or goroutine is in; who says which of the two. */
static __always_inline struct tls_call *current_call(struct pt_regs *regs, struct caller *who)
{
	struct tls_call *call;
	__u64 thread;

	*who = this_thread();
	call = innermost(who);
	if (call)
		return call;
	thread = who->id;
	who->id = goroutine(regs);
	call = innermost(who);
	if (!call)
		who->id = thread;
	return call;
}

/* The stream and the socket belong together. */
static __noinline int bind(struct tls_key *key, struct sock *sk, struct conn *c, __u8 kind)
{
	struct tls_stream *t = stream_of(key);
	__u64 old_sk;

	if (!t || (t->sk == (__u64)sk && t->plain.conn == c->plain.conn))
		return 0;
	old_sk = t->sk;
	if (old_sk) {
		/* A connection of Go never moves; this call has ended without a probe to tell, and the bytes are not its. */
		if (kind == CALL_GO_WRITE && bpf_map_lookup_elem(&conns, &old_sk))
			return 0;
		/* the SSL object was reused: another stream */
		emit_close(&t->plain);
		drop_stream(key, t);
		t = stream_of(key);
		if (!t)
			return 0;
		t->handshake = kind == CALL_HANDSHAKE;
	}
	if (c->tls.ssl && (c->tls.ssl != key->ssl || c->tls.tgid != key->tgid)) {
		struct tls_key old_key = c->tls;
		struct tls_stream *old = bpf_map_lookup_elem(&tls_streams, &old_key);

		if (old && old->sk == (__u64)sk) {
			emit_close(&old->plain);
			drop_stream(&old_key, old);
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
	c->tls = *key;
	return 0;
}

/* The first bytes of a buffer, which may lie in several iovecs. False where there are fewer. */
static __always_inline bool read_prefix(const struct io *io, __u8 *bytes)
{
	__u64 have = 0;

	if (io->flags & FLAG_UNSEEN)
		return false;
	if (!io->iovs)
		return io->length >= PREFIX_BYTES && !bpf_probe_read_user(bytes, PREFIX_BYTES, (void *)io->buf);
	for (__u32 i = 0; i < 4 && i < io->iovs && have < PREFIX_BYTES; i++) {
		struct iovec iov;
		__u64 n;

		if (bpf_probe_read_user(&iov, sizeof(iov), (void *)(io->buf + i * sizeof(iov))))
			return false;
		n = iov.len < PREFIX_BYTES - have ? iov.len : PREFIX_BYTES - have;
		asm volatile("" : "+r"(n));
		if (n > PREFIX_BYTES || bpf_probe_read_user(bytes + (have & (PREFIX_BYTES - 1)), n, (void *)iov.base))
			return false;
		have += n;
	}
	return have >= PREFIX_BYTES && io->length >= PREFIX_BYTES;
}

/* What a socket without a TLS stream sends may be what a library wrote into memory. */
static __noinline __attribute__((unused)) int bind_by_prefix(struct sock *sk, struct conn *c, const struct io *io, __u32 tgid)
{
	struct {
		struct prefix key;
		__u8 room[PREFIX_BYTES]; /* what the verifier takes for possible */
	} p = {.key.tgid = tgid};
	struct tls_key *found, key;
	struct tls_stream *t;

	if (!read_prefix(io, p.key.bytes))
		return 0;
	p.key.tgid = tgid;
	p.key.pad = 0;
	found = bpf_map_lookup_elem(&prefixes, &p.key);
	if (!found)
		return 0;
	key = *found;
	t = bpf_map_lookup_elem(&tls_streams, &key);
	if (!t || t->sk)
		return 0;
	/* A connection seen from its start that sends a record of the handshake (RFC 8446 section 5.1) has moved nothing plain. */
	if (c->fresh && p.key.bytes[0] == 0x16 && !(t->plain.offset[0] | t->plain.offset[1]))
		t->handshake = 1;
	count(COUNT_BOUND_BY_PREFIX, 1);
	bind(&key, sk, c, CALL_WRITE);
	t = bpf_map_lookup_elem(&tls_streams, &key);
	if (!t)
		return 0;
	for (__u32 i = 0; i < MAX_PREFIXES; i++)
		if (i < t->written)
			bpf_map_delete_elem(&prefixes, &t->prefixes[i]);
	t->written = 0;
	return 1;
}

/* The TLS call of this thread uses a socket outside the selection: nothing more of it is read. */
static __noinline __attribute__((unused)) int refuse(struct tls_key *key, struct sock *sk)
{
	struct tls_stream *t = stream_of(key);

	if (t && t->sk && t->sk != (__u64)sk) { /* it had one inside: that stream has ended */
		emit_close(&t->plain);
		drop_stream(key, t);
		t = stream_of(key);
	}
	if (t)
		t->refused = 1;
	return 0;
}

#endif
