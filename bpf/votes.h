/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Which socket a library that works in memory uses, where its BIO_write has no probe: what a thread received last is
 * what it decrypts next, and what it encrypted is what it sends next. A record is longer than its plain bytes by a
 * number that the cipher fixes; lengths that differ by that much are a vote. VOTES_NEEDED in a row for one socket bind,
 * one for another ends the asking: then the stream stays unbound rather than wrong.
 */
#ifndef SPILE_VOTES_H
#define SPILE_VOTES_H

#define VOTES_NEEDED 3
#define VOTES_CONTRADICTED 255
#define RECEIVED_MIXED 1 /* no address of a socket */
#define MAX_RECORD 16384 /* plain bytes, RFC 8446 section 5.1 */

static const struct memory_io no_memory_io;

static __always_inline struct memory_io *memory_of(const struct caller *who)
{
	struct memory_io *m = bpf_map_lookup_elem(&memory_ios, who);

	if (m)
		return m;
	if (bpf_map_update_elem(&memory_ios, who, &no_memory_io, BPF_NOEXIST)) {
		count(LOST_MEMORY_FULL, 1);
		return NULL;
	}
	return bpf_map_lookup_elem(&memory_ios, who);
}

/*
 * What encryption adds to a record: 22 in TLS 1.3 (header, content type, tag), 29 and 21 in TLS 1.2 with AES-GCM and
 * ChaCha20-Poly1305 (RFC 8446 section 5.2, RFC 5288, RFC 7905).
 */
static __always_inline bool fits(__u32 sealed, __u32 plain, __u32 records)
{
	__u32 more = sealed - plain;

	return sealed > plain && (more == 22 * records || more == 29 * records || more == 21 * records);
}

/* The stream has enough votes for this socket. */
static __noinline bool vote(struct tls_key *key, __u64 sk, struct conn *c)
{
	struct tls_stream *t = bpf_map_lookup_elem(&tls_streams, key);

	if (!t || t->sk || t->votes == VOTES_CONTRADICTED || c->tls.ssl || c->plain.tgid != key->tgid)
		return false;
	if (t->votes && t->guess != sk) {
		t->votes = VOTES_CONTRADICTED;
		return false;
	}
	t->guess = sk;
	if (++t->votes < VOTES_NEEDED)
		return false;
	count(COUNT_BOUND_BY_LENGTH, 1);
	return true;
}

/* A TLS socket without a stream moved n bytes outside of any TLS call; returns the stream that has shown to be its own. */
static __noinline __attribute__((unused)) __u64 note_sealed(struct sock *sk, struct conn *c, const struct caller *who, __u32 n, __u8 direction)
{
	struct tls_key key = {.tgid = who->tgid};
	struct memory_io *m = memory_of(who);
	bool told;

	if (!m)
		return 0;
	if (direction == DIRECTION_INGRESS) {
		/* Two sockets before one call: what is decrypted next may be of either. */
		m->received_by = m->received_by && m->received_by != (__u64)sk ? RECEIVED_MIXED : (__u64)sk;
		m->received = n;
		return 0;
	}
	key.ssl = m->ssl;
	told = m->ssl && !m->mixed && fits(n, m->plain, m->records);
	m->ssl = 0;
	m->plain = 0;
	m->records = 0;
	m->mixed = 0;
	return told && vote(&key, (__u64)sk, c) ? key.ssl : 0;
}

/* A call without a socket of its own moved n plain bytes. */
static __noinline __attribute__((unused)) int note_plain(struct tls_call *call, const struct caller *who, __u32 n)
{
	struct tls_key key = {.ssl = call->ssl, .tgid = who->tgid};
	struct tls_stream *t = bpf_map_lookup_elem(&tls_streams, &key);
	struct memory_io *m;
	struct conn *c;
	__u64 sk;

	if (!t || t->sk || t->refused)
		return 0;
	m = memory_of(who);
	if (!m)
		return 0;
	if (call->kind == CALL_WRITE) {
		if (m->ssl && m->ssl != key.ssl)
			m->mixed = 1;
		m->ssl = key.ssl;
		m->plain += n;
		m->records += (n + MAX_RECORD - 1) / MAX_RECORD;
		return 0;
	}
	sk = m->received_by;
	m->received_by = 0;
	if (sk <= RECEIVED_MIXED || !fits(m->received, n, 1))
		return 0;
	c = bpf_map_lookup_elem(&conns, &sk);
	if (c && vote(&key, sk, c))
		bind(&key, (struct sock *)sk, c, CALL_READ);
	return 0;
}

#endif
