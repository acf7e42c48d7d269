/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The life of a connection in the table: its addresses, where its bytes stand, its end. */
#ifndef SPILE_CONN_H
#define SPILE_CONN_H

static __always_inline bool is_inet(struct sock *sk, __u16 protocol)
{
	__u16 family = BPF_CORE_READ(sk, __sk_common.skc_family);

	return (family == AF_INET || family == AF_INET6) && BPF_CORE_READ(sk, sk_protocol) == protocol;
}

static __always_inline void map_v4(__u8 *address, __be32 v4)
{
	address[10] = 0xff;
	address[11] = 0xff;
	__builtin_memcpy(address + 12, &v4, 4);
}

static __always_inline void read_tuple(struct sock *sk, struct stream *s)
{
	s->local_port = BPF_CORE_READ(sk, __sk_common.skc_num);
	s->remote_port = bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport));
	s->netns = BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
	if (BPF_CORE_READ(sk, __sk_common.skc_family) == AF_INET) {
		map_v4(s->local, BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr));
		map_v4(s->remote, BPF_CORE_READ(sk, __sk_common.skc_daddr));
	} else {
		BPF_CORE_READ_INTO(&s->local, sk, __sk_common.skc_v6_rcv_saddr);
		BPF_CORE_READ_INTO(&s->remote, sk, __sk_common.skc_v6_daddr);
	}
}

static __always_inline __u32 tcp_seq(struct sock *sk, __u8 direction)
{
	struct tcp_sock *tcp = (struct tcp_sock *)sk;

	return direction == DIRECTION_EGRESS ? BPF_CORE_READ(tcp, write_seq) : BPF_CORE_READ(tcp, copied_seq);
}

/* What moves from here on without a hook will show. */
static __always_inline void track(struct sock *sk, struct conn *c)
{
	c->next_seq[DIRECTION_INGRESS] = tcp_seq(sk, DIRECTION_INGRESS);
	c->next_seq[DIRECTION_EGRESS] = tcp_seq(sk, DIRECTION_EGRESS);
	c->tracked = 3;
}

static __noinline struct conn *new_conn(struct sock *sk, bool fresh)
{
	__u64 key = (__u64)sk;
	struct conn *c;

	if (bpf_map_update_elem(&conns, &key, &no_conn, BPF_NOEXIST)) {
		c = bpf_map_lookup_elem(&conns, &key);
		if (!c)
			count(LOST_CONNS_FULL, 1);
		return c; /* another processor was faster */
	}
	c = bpf_map_lookup_elem(&conns, &key);
	if (!c)
		return NULL;
	c->plain.id = new_id(LAYER_SOCKET);
	c->plain.conn = c->plain.id;
	c->plain.conn_birth = bpf_ktime_get_boot_ns();
	c->plain.layer = LAYER_SOCKET;
	c->fresh = fresh;
	if (fresh)
		track(sk, c);
	read_tuple(sk, &c->plain);
	return c;
}

/* Ends both streams of a connection and forgets it. */
static __noinline int end_conn(struct sock *sk, struct conn *c)
{
	__u64 key = (__u64)sk;

	emit_close(&c->plain);
	if (c->tls.ssl) {
		struct tls_key tls = c->tls;
		struct tls_stream *t = bpf_map_lookup_elem(&tls_streams, &tls);

		if (t && t->sk == key) {
			emit_close(&t->plain);
			drop_stream(&tls, t);
		}
	}
	bpf_map_delete_elem(&conns, &key);
	return 0;
}

/*
 * Bytes that passed without any hook (splice from a socket, io_uring, zero-copy receive) show in TCP's own
 * sequence numbers. A FIN takes one number too.
 */
static __always_inline void skip_unseen(struct conn *c, struct sock *sk, __u8 direction, __u32 n)
{
	__u32 d = direction & 1, now = tcp_seq(sk, direction);
	__s32 gap = now - c->next_seq[d] - n;

	if ((c->tracked & (1 << d)) && gap > 0) {
		if (d == DIRECTION_INGRESS && (BPF_CORE_READ(sk, sk_shutdown) & RCV_SHUTDOWN))
			gap--;
		c->plain.offset[d] += gap;
		skip_frames(&c->plain, d, gap);
		if (c->state == CONN_HTTP)
			count(LOST_UNSEEN_BYTES, gap);
	}
	c->next_seq[d] = now;
	c->tracked |= 1 << d;
}

#endif
