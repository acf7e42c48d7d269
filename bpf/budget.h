/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * How many bytes one cgroup may cost: what its budget says; of long messages, whose ends say little that is new, less; and,
 * while the ring is nearly full, its share of what is left, so that one that floods the ring leaves room for the others. With cgroup v1 alone every process is in the same one.
 */
#ifndef SPILE_BUDGET_H
#define SPILE_BUDGET_H

const volatile __u64 budget_bytes = 0;      /* per second and cgroup; 0 = no limit */
const volatile __u64 share_bytes = 1 << 20; /* the same under pressure */
const volatile __u64 body_bytes = 0;        /* the same of messages beyond their first bytes; 0 = no limit */

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

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, __u64); /* cgroup */
	__type(value, struct budget);
} shares SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, __u64); /* cgroup */
	__type(value, struct budget);
} bodies SEC(".maps");

/* Takes n bytes from a bucket that holds what one second gives. */
static __always_inline bool take(void *buckets, __u64 cgroup, __u64 rate, __u32 n)
{
	__u64 now = bpf_ktime_get_boot_ns(), elapsed;
	struct budget *b = bpf_map_lookup_elem(buckets, &cgroup), full = {.left = rate, .time = now};

	if (!b) {
		bpf_map_update_elem(buckets, &cgroup, &full, BPF_NOEXIST);
		b = bpf_map_lookup_elem(buckets, &cgroup);
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
		b->left += rate;
		if (b->left > (__s64)rate)
			b->left = rate;
	} else if (elapsed >= 1000000) { /* two processors may refill at once: a millisecond's worth too much */
		b->time = now;
		b->left += elapsed / 1000 * rate / 1000000;
		if (b->left > (__s64)rate)
			b->left = rate;
	}
	/* What is larger than the bucket goes into debt, or it would never pass. */
	if (b->left <= 0)
		return false;
	__sync_fetch_and_add(&b->left, -(__s64)n);
	return true;
}

static __noinline __attribute__((unused)) bool afford(__u64 cgroup, __u32 n)
{
	return take(&budgets, cgroup, budget_bytes, n);
}

static __noinline __attribute__((unused)) bool afford_body(__u64 cgroup, __u32 n)
{
	return take(&bodies, cgroup, body_bytes, n);
}

static __noinline __attribute__((unused)) bool afford_share(__u64 cgroup, __u32 n)
{
	return take(&shares, cgroup, share_bytes, n);
}

#endif
