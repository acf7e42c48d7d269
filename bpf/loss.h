/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Who lost what: counted where something is lost, so that it costs nothing elsewhere. */
#ifndef SPILE_LOSS_H
#define SPILE_LOSS_H

enum loss_reason { LOSS_RING_FULL, LOSS_BUDGET, LOSS_PRESSURE, LOSS_SAMPLED, LOSS_REASONS };

struct loss_key {
	__u64 cgroup; /* 0 = those without room in the table; user space makes these entries before anything is lost */
	__u32 reason; /* enum loss_reason */
	__u32 pad;
};

struct loss {
	__u64 events; /* reads and writes, or pieces of them */
	__u64 bytes;
	__u64 heads;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, struct loss_key);
	__type(value, struct loss);
} losses SEC(".maps");

static const struct loss no_loss;

static __noinline __attribute__((unused)) int lose(__u64 cgroup, __u32 reason, __u32 bytes, __u32 heads)
{
	struct loss_key key = {.cgroup = cgroup, .reason = reason};
	struct loss *l = bpf_map_lookup_elem(&losses, &key);

	if (!l) {
		bpf_map_update_elem(&losses, &key, &no_loss, BPF_NOEXIST);
		l = bpf_map_lookup_elem(&losses, &key);
	}
	if (!l) {
		key.cgroup = 0;
		l = bpf_map_lookup_elem(&losses, &key);
	}
	if (!l)
		return 0;
	__sync_fetch_and_add(&l->events, 1);
	__sync_fetch_and_add(&l->bytes, bytes);
	__sync_fetch_and_add(&l->heads, heads);
	return 0;
}

#endif
