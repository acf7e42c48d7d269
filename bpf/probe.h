/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What each probe costs, and whether it lies right. User space gives every program in every file a slot as its attach
 * cookie; a kernel without cookies (before 5.15) counts all hits in slot 0.
 */
#ifndef SPILE_PROBE_H
#define SPILE_PROBE_H

#define PROBE_SLOTS 8192

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, PROBE_SLOTS);
	__type(key, __u32); /* slot */
	__type(value, __u64);
} probe_hits SEC(".maps");

/* How often a place was hit with the arguments of the call that it lies in. */
struct site_check {
	__u64 agree;
	__u64 disagree;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, PROBE_SLOTS);
	__type(key, __u32); /* slot */
	__type(value, struct site_check);
} site_checks SEC(".maps");

/* Counts a hit of the probe that runs, and returns its slot. */
static __always_inline __u32 hit(void *ctx)
{
	__u32 slot = 0;
	__u64 *hits;

	if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_get_attach_cookie))
		slot = bpf_get_attach_cookie(ctx);
	hits = bpf_map_lookup_elem(&probe_hits, &slot);
	if (!hits)
		return 0;
	__sync_fetch_and_add(hits, 1);
	return slot;
}

#endif
