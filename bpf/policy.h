/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What user space wants of streams. A stream looks its part up once for each version: a comparison otherwise. */
#ifndef SPILE_POLICY_H
#define SPILE_POLICY_H

struct shed {
	__u32 one_in; /* connections of which one is read; 0 and 1 = all */
	__u8 flags;   /* SHED_BODIES, SHED_RESPONSES of shed.h */
	__u8 pad[3];
};

struct policy {
	struct shed all; /* who has no entry in sheds */
	__u32 version;   /* 0 = nothing was ever said */
	__u32 pad;
};

enum { POLICY_SHED = 0, POLICY_MUTES = 1 };

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32); /* POLICY_SHED; POLICY_MUTES, which has a version only */
	__type(value, struct policy);
} policies SEC(".maps");

/* The policy, if it says something that a stream has not taken over yet. */
static __always_inline struct policy *news(__u32 which, __u32 version)
{
	struct policy *p = bpf_map_lookup_elem(&policies, &which);

	return p && p->version != version ? p : NULL;
}

#endif
