/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* How many bytes one cgroup may cost. With cgroup v1 alone every process is in the same one. */
#ifndef SPILE_BUDGET_H
#define SPILE_BUDGET_H

const volatile __u64 budget_bytes = 0; /* per second and cgroup; 0 = no limit */

struct budget {
	__s64 left; /* bytes */
	__u64 time; /* of the last refill, ns since boot */
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH); /* a cgroup that comes back begins with a full bucket */
	__uint(max_entries, 8192);
	__type(key, __u64); /* cgroup */
	__type(value, struct budget);
} budgets SEC(".maps");

/* Takes n bytes from the cgroup's budget: a bucket that holds what one second gives. */
static __noinline __attribute__((unused)) bool afford(__u64 cgroup, __u32 n)
{
	__u64 now = bpf_ktime_get_boot_ns(), elapsed;
	struct budget *b = bpf_map_lookup_elem(&budgets, &cgroup), full = {.left = budget_bytes, .time = now};

	if (!b) {
		bpf_map_update_elem(&budgets, &cgroup, &full, BPF_NOEXIST);
		b = bpf_map_lookup_elem(&budgets, &cgroup);
		if (!b) {
			count(LOST_BUDGETS_FULL, 1);
			return true;
		}
	}
	elapsed = now - b->time;
	if ((__s64)elapsed < 0) {
		/* another processor refilled it since */
	} else if (elapsed >= 1000000000) {
		b->time = now;
		b->left += budget_bytes;
		if (b->left > (__s64)budget_bytes)
			b->left = budget_bytes;
	} else if (elapsed >= 1000000) { /* two processors may refill at once: a millisecond's worth too much */
		b->time = now;
		b->left += elapsed / 1000 * budget_bytes / 1000000;
		if (b->left > (__s64)budget_bytes)
			b->left = budget_bytes;
	}
	/* What is larger than the bucket goes into debt, or it would never pass. */
	if (b->left <= 0)
		return false;
	__sync_fetch_and_add(&b->left, -(__s64)n);
	return true;
}

/* Bytes that the cgroup may not cost: like a full ring, they show as a gap with a place and a number of heads. */
static __always_inline int refuse_budget(struct stream *s, __u32 d, __u32 length)
{
	count(LOST_BUDGET_CALLS, 1);
	count(LOST_BUDGET_BYTES, length);
	count(LOST_BUDGET_HEADS, s->begun[d]);
	s->heads[d] += s->begun[d];
	s->begun[d] = 0;
	s->offset[d] += length;
	s->seq[d]++;
	return 0;
}

#endif
