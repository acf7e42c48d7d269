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

/* Ciphertext: explained by a TLS call, or by none. */
static __noinline int tls_bytes(struct conn *c, struct tls_call *call, const struct caller *who, struct sock *sk, const struct io *io)
{
	struct coverage *v = coverage_of(&c->plain);
	__u32 n = io->length;

	count(COUNT_TLS_BYTES, n);
	if (v)
		__sync_fetch_and_add(&v->tls, n);
	if (call) {
		struct tls_key key = {.ssl = call->ssl, .tgid = who->tgid};
		bool egress = io->direction == DIRECTION_EGRESS, ended = false;

		if (egress && (call->kind == CALL_WRITE || call->kind == CALL_GO_WRITE)) {
			call->sent += n;
			ended = call->kind == CALL_GO_WRITE && call->sent > call->left;
		}
		bind(&key, sk, c, call->kind);
		if (call->kind != CALL_HANDSHAKE && !c->covered)
			cover(c, v);
		if (ended)
			end_innermost(who);
	} else if (!c->covered) { /* a server that buffers what it writes sends outside the calls */
		c->uncovered += n;
		if (io->direction == DIRECTION_EGRESS && bind_by_prefix(sk, c, io, who->tgid))
			cover(c, v);
		else if (note_sealed(sk, who, n, io->direction))
			cover(c, v);
	} else if (io->direction == DIRECTION_INGRESS) { /* what the thread decrypts next is this, not what it received before */
		struct memory_io *m = bpf_map_lookup_elem(&memory_ios, who);

		if (m)
			m->received_by = 0;
	}
	if (!c->covered) {
		c->pending += n;
		count(COUNT_UNCOVERED_BYTES, n);
	} else if (v) {
		__sync_fetch_and_add(&v->decoded, n);
	}
	return 0;
}

#endif
