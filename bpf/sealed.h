/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Ciphertext that a socket moves: whose it is, and whether it counts as decoded. */
#ifndef SPILE_SEALED_H
#define SPILE_SEALED_H

/* The stream inside is read from here on; what went before it is credited if nothing of that was plain. */
static __always_inline void cover(struct conn *c, struct coverage *v)
{
	struct tls_key key = c->tls;
	struct tls_stream *t = bpf_map_lookup_elem(&tls_streams, &key);

	c->covered = 1;
	if (v && t && (t->plain.flags & FLAG_FRESH))
		__sync_fetch_and_add(&v->decoded, c->pending);
	c->pending = 0;
}

/* Ciphertext: explained by a TLS call, by what a library wrote into memory, or by nothing. */
static __noinline int tls_bytes(struct conn *c, struct tls_call *call, const struct caller *who, struct sock *sk, const struct io *io)
{
	struct coverage *v = coverage_of(&c->plain);
	struct tls_key key = {.tgid = who->tgid};
	__u8 kind = CALL_WRITE;
	__u32 n = io->length;
	__u64 other;
	bool ended = false;

	count(COUNT_TLS_BYTES, n);
	if (v)
		__sync_fetch_and_add(&v->tls, n);
	if (call) {
		key.ssl = call->ssl;
		kind = call->kind;
		if (io->direction == DIRECTION_EGRESS) {
			call->sent += n;
			ended = kind == CALL_GO_WRITE && call->sent > call->left;
			/* Inside the call of another: node calls its program back in SSL_read, and that writes elsewhere. */
			other = c->tls.ssl ? 0 : by_prefix(c, io, who->tgid);
			if (other) {
				key.ssl = other;
				kind = CALL_WRITE;
			}
		}
	} else if (!c->covered) {
		c->uncovered += n;
		if (io->direction == DIRECTION_EGRESS)
			key.ssl = by_prefix(c, io, who->tgid);
		if (!key.ssl)
			key.ssl = note_sealed(sk, c, who, n, io->direction);
	} else if (io->direction == DIRECTION_INGRESS) { /* what the thread decrypts next is this, not what it received before */
		struct memory_io *m = bpf_map_lookup_elem(&memory_ios, who);

		if (m)
			m->received_by = 0;
	}
	/* A handshake alone shows no plain byte. A server that buffers what it writes sends outside the calls. */
	if (key.ssl && bind(&key, sk, c, kind) && kind != CALL_HANDSHAKE && !c->covered)
		cover(c, v);
	if (ended)
		end_innermost(who);
	if (!c->covered) {
		c->pending += n;
		count(COUNT_UNCOVERED_BYTES, n);
	} else if (v) {
		__sync_fetch_and_add(&v->decoded, n);
	}
	return 0;
}

#endif
