/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * QUIC is named, not read: its TLS is inside the program. A UDP socket speaks it once it has moved a padded Initial
 * packet; from then on its bytes are counted for its process. Only the rung tp_btf sees datagrams.
 */
#ifndef SPILE_QUIC_H
#define SPILE_QUIC_H

#define QUIC_INITIAL_BYTES 1200 /* RFC 9000 section 14.1 */

/* Sockets that spoke QUIC, with their local port: an address in the kernel comes back. The oldest give way. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64); /* struct sock * */
	__type(value, __u16);
} quic_socks SEC(".maps");

/* A long header, version 1 (RFC 9000 section 17.2.2) or 2 (RFC 9369 section 3.2), type Initial, an id of at most 20 bytes. */
static __always_inline bool is_quic_initial(const union head *head, __u32 n)
{
	const __u8 *b = head->byte;
	__u32 version = (__u32)b[1] << 24 | (__u32)b[2] << 16 | (__u32)b[3] << 8 | b[4];

	if (n < QUIC_INITIAL_BYTES || b[5] > 20)
		return false;
	return (version == 1 && (b[0] & 0xf0) == 0xc0) || (version == 0x6b3343cf && (b[0] & 0xf0) == 0xd0);
}

/* One call of the current task moved ret bytes of a UDP socket. */
static __noinline int udp_io(struct sock *sk, struct pt_regs *regs, int ret, __u8 direction)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct process_id id = {.tgid = bpf_get_current_pid_tgid() >> 32};
	struct io io = {.length = ret, .direction = direction};
	__u64 key = (__u64)sk;
	__u16 port = BPF_CORE_READ(sk, __sk_common.skc_num), *known;
	struct coverage *c;
	union head head;

	if (!select_task(task, id.tgid) || !select_sock(sk))
		return 0;
	known = bpf_map_lookup_elem(&quic_socks, &key);
	if (!known || *known != port) {
		if (ret < QUIC_INITIAL_BYTES || !find_buffer(task, regs, &io) || !sniff(&io, &head) || !is_quic_initial(&head, ret))
			return 0;
		bpf_map_update_elem(&quic_socks, &key, &port, BPF_ANY);
	}
	count(COUNT_QUIC_BYTES, ret);
	id.start = BPF_CORE_READ(task, group_leader, start_boottime);
	c = coverage_at(&id, bpf_get_current_cgroup_id());
	if (c)
		__sync_fetch_and_add(&c->quic, ret);
	return 0;
}

#endif
