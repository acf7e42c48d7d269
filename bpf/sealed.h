/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Ciphertext that a socket moves: whose it is, and whether it counts as decoded. */
#ifndef SPILE_SEALED_H
#define SPILE_SEALED_H

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
	if (call && call->kind == CALL_GO_WRITE) {
		key.ssl = call->ssl;
		if (!bpf_map_lookup_elem(&tls_streams, &key)) { /* it failed, and its connection is over */
			end_innermost(who);
			call = NULL;
		}
		key.ssl = 0;
	}
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
			} else if (call->wrote) { /* into memory: what is sent here is not it */
				key.ssl = 0;
			}
		}
	} else if (!c->tls.ssl) {
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
	if (key.ssl && bind(&key, sk, c, kind)) {
		if (ended)
			end_innermost(who);
	} else if (kind == CALL_GO_WRITE) {
		give_up(who, key.ssl);
	}
	/*
	 * Decoded is what plain bytes go with (plain.h). What comes after them counts at once, up to what their message may
	 * need; a handshake alone, or a library whose probes are gone, shows no plain byte.
	 */
	c->idle += n;
	if (c->covered && c->idle <= c->slack) {
		if (v)
			__sync_fetch_and_add(&v->decoded, n);
	} else {
		c->pending += n;
		count(COUNT_UNCOVERED_BYTES, n);
	}
	return 0;
}

#endif
