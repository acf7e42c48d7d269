/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Which TLS stream uses which socket. Nothing is asked of the library:
 *   nested    the thread, or the goroutine, moves TLS records through the socket inside the library's call
 *   prefix    the socket sends the very bytes that the library wrote into memory during a call
 *   lengths   agree three times in a row (votes.h)
 * What is none of these stays unbound.
 */
#ifndef SPILE_BIND_H
#define SPILE_BIND_H

/* Ends a TLS stream in the middle of its process's life. */
static __noinline int end_stream(struct tls_key *key, struct tls_stream *t)
{
	emit_close(&t->plain);
	return drop_stream(key, t);
}

/* Whether the socket has a stream that lives, other than this one. */
static __always_inline bool has_partner(const struct conn *c, const struct tls_key *key)
{
	/* A child of a fork takes the connection of its parent over: it is the one that moves the bytes. */
	return c->tls.ssl && c->tls.ssl != key->ssl && c->tls.tgid == key->tgid;
}

/* A write of Go that sent nothing, and ended without a probe to tell: so did its stream, if it has no socket. */
static __noinline __attribute__((unused)) int give_up(const struct caller *who, __u64 ssl)
{
	struct tls_key key = {.ssl = ssl, .tgid = who->tgid};
	struct tls_stream *t = bpf_map_lookup_elem(&tls_streams, &key);

	end_innermost(who);
	if (t && !t->sk)
		end_stream(&key, t);
	return 0;
}

/* The stream and the socket belong together. False where they do not, or there is no room. */
static __noinline bool bind(struct tls_key *key, struct sock *sk, struct conn *c, __u8 kind)
{
	struct tls_stream *t;
	__u64 old_sk;
	__u8 unbound;

	if (c->tls.ssl == key->ssl && c->tls.tgid == key->tgid)
		return true;
	t = stream_of(key);
	if (!t)
		return false;
	old_sk = t->sk;
	if (!old_sk && has_partner(c, key))
		return false; /* a program that its library calls back sends on another connection, whose stream lives */
	if (old_sk) {
		/*
		 * Its socket lives, so the bytes are not its: a program that its library calls back sends on other connections
		 * inside the call (node in SSL_read), and a write of Go may have ended without a probe to tell. Only a handshake
		 * moves an object, and never to a socket that has a living stream.
		 */
		if ((kind != CALL_HANDSHAKE || has_partner(c, key)) && bpf_map_lookup_elem(&conns, &old_sk))
			return false;
		/* the SSL object was reused: another stream */
		end_stream(key, t);
		t = stream_of(key);
		if (!t)
			return false;
		t->handshake = kind == CALL_HANDSHAKE;
	}
	if (c->tls.ssl) {
		struct tls_key old_key = c->tls;
		struct tls_stream *old = bpf_map_lookup_elem(&tls_streams, &old_key);

		if (old)
			end_stream(&old_key, old);
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
	unbound = t->plain.flags & FLAG_UNBOUND;
	t->plain.flags &= ~FLAG_UNBOUND;
	if (t->handshake || (c->fresh && !c->uncovered && !c->covered))
		t->plain.flags |= FLAG_FRESH;
	c->tls = *key;
	forget_prefixes(t);
	if (unbound && (t->plain.seq[0] | t->plain.seq[1])) /* what it said before has a peer now: told at once */
		emit_note(&t->plain);
	return true;
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
		/* A mask and a bound that the compiler cannot merge: Linux 6.1 keeps neither of them alone through the loop. */
		asm volatile("" : "+r"(n));
		n &= 2 * PREFIX_BYTES - 1;
		asm volatile("" : "+r"(n));
		if (n > PREFIX_BYTES)
			return false;
		if (bpf_probe_read_user(bytes + (have & (PREFIX_BYTES - 1)), n, (void *)iov.base))
			return false;
		have += n;
	}
	return have >= PREFIX_BYTES && io->length >= PREFIX_BYTES;
}

/* The stream, without a socket so far, that wrote into memory what this socket sends; 0 = none. */
static __noinline __attribute__((unused)) __u64 by_prefix(struct conn *c, const struct io *io, __u32 tgid)
{
	struct {
		struct prefix key;
		__u8 room[PREFIX_BYTES]; /* what the verifier takes for possible */
	} p = {.key.tgid = tgid};
	struct tls_key *found;
	struct tls_stream *t;

	if (!read_prefix(io, p.key.bytes))
		return 0;
	p.key.tgid = tgid;
	p.key.pad = 0;
	found = bpf_map_lookup_elem(&prefixes, &p.key);
	if (!found || !found->ssl)
		return 0;
	t = bpf_map_lookup_elem(&tls_streams, found);
	if (!t || t->sk)
		return 0;
	/* A connection seen from its start that sends a record of the handshake (RFC 8446 section 5.1) has moved nothing plain. */
	if (c->fresh && p.key.bytes[0] == 0x16 && !(t->plain.offset[0] | t->plain.offset[1]))
		t->handshake = 1;
	count(COUNT_BOUND_BY_PREFIX, 1);
	return found->ssl;
}

/* The TLS call of this thread uses a socket outside the selection: nothing more of it is read. */
static __noinline __attribute__((unused)) int refuse(struct tls_key *key, struct sock *sk)
{
	struct tls_stream *t = stream_of(key);

	if (t && t->sk && t->sk != (__u64)sk) { /* it had one inside: that stream has ended */
		end_stream(key, t);
		t = stream_of(key);
	}
	if (t)
		t->refused = 1;
	return 0;
}

#endif
