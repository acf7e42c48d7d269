/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What is watched. Decided before a byte of user memory is read: rules of one kind are alternatives, kinds
 * must all agree, an exclusion wins, and what cannot be decided is not watched.
 */
#ifndef SPILE_SELECT_H
#define SPILE_SELECT_H

enum { KIND_NETNS = 1, KIND_CGROUP = 2, KIND_EXE = 4, KIND_PID = 8, KIND_PORT = 16 };
enum { VERDICT_INCLUDE = 1, VERDICT_EXCLUDE = 2, VERDICT_KNOWN = 4 };

#define MAX_CGROUPS 16 /* of each side; exclusions follow inclusions in the array */

const volatile __u32 include_kinds = 0;
const volatile __u32 exclude_kinds = 0;
const volatile __u32 include_cgroups = 0;
const volatile __u32 exclude_cgroups = 0;

struct file_id {
	__u64 dev; /* dev_t of the kernel: major << 20 | minor */
	__u64 ino;
};

#define MAX_SELVES 8

/* What each hook asks first, without hashing. */
struct selection {
	__u32 selves[MAX_SELVES]; /* tgids of the agent and its kin; 0 = none */
	__u32 netns;              /* the only namespace with a rule, and that includes it; 0 = ask select_netns */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct selection);
} selections SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32); /* inode of the namespace */
	__type(value, __u8);
} select_netns SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_CGROUP_ARRAY);
	__uint(max_entries, 2 * MAX_CGROUPS);
	__type(key, __u32);
	__type(value, __u32);
} select_cgroup SEC(".maps");

/* Filled by user space, which knows names; the kernel knows only files. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, struct file_id);
	__type(value, __u8);
} select_exe SEC(".maps");

/* Inherited at fork, removed at exit. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u32); /* tgid */
	__type(value, __u8);
} select_pid SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u16); /* host order */
	__type(value, __u8);
} select_port SEC(".maps");

static __always_inline bool has_rules(__u32 kind)
{
	return (include_kinds | exclude_kinds) & kind;
}

static __always_inline bool refuses(__u32 kind, __u8 verdict)
{
	return (verdict & VERDICT_EXCLUDE) || ((include_kinds & kind) && !(verdict & VERDICT_INCLUDE));
}

static __always_inline __u8 verdict_of(void *map, const void *key)
{
	__u8 *verdict = bpf_map_lookup_elem(map, key);

	return verdict ? *verdict : 0;
}

static __always_inline struct selection *the_selection(void)
{
	__u32 only = 0;

	return bpf_map_lookup_elem(&selections, &only);
}

/* Arithmetic alone: of eight branches an old verifier takes each combination. */
static __always_inline bool is_self(const struct selection *s, __u32 tgid)
{
	__u64 same = 0;

	for (int i = 0; i < MAX_SELVES; i++) {
		__u64 differs = s->selves[i] ^ tgid;

		asm volatile("" : "+r"(differs));
		same |= differs - 1; /* the highest bit, if it is 0 */
	}
	return same >> 63;
}

static __always_inline bool refuses_netns(const struct selection *s, __u32 netns)
{
	if (s->netns)
		return s->netns != netns;
	return refuses(KIND_NETNS, verdict_of(&select_netns, &netns));
}

static __always_inline __u8 cgroup_verdict(void)
{
	__u8 verdict = 0;

	for (__u32 i = 0; i < MAX_CGROUPS; i++) {
		if (i < include_cgroups && bpf_current_task_under_cgroup(&select_cgroup, i) == 1)
			verdict |= VERDICT_INCLUDE;
		if (i < exclude_cgroups && bpf_current_task_under_cgroup(&select_cgroup, MAX_CGROUPS + i) == 1)
			verdict |= VERDICT_EXCLUDE;
	}
	return verdict;
}

/* The current task's: by loads instead of calls where the kernel lends its type (5.11). */
static __always_inline __u32 netns_of(struct task_struct *current)
{
	if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_get_current_task_btf)) {
		struct task_struct *typed = bpf_get_current_task_btf();

		return typed->nsproxy->net_ns->ns.inum;
	}
	return BPF_CORE_READ(current, nsproxy, net_ns, ns.inum);
}

static __always_inline struct file_id exe_of(struct task_struct *task)
{
	struct file_id id = {};
	struct inode *inode = BPF_CORE_READ(task, mm, exe_file, f_inode);

	if (inode) {
		id.dev = BPF_CORE_READ(inode, i_sb, s_dev);
		id.ino = BPF_CORE_READ(inode, i_ino);
	}
	return id;
}

/* What the current task runs, in the same way. */
static __always_inline struct file_id own_exe(struct task_struct *current)
{
	struct file_id id = {};

	if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_get_current_task_btf)) {
		struct task_struct *typed = bpf_get_current_task_btf();
		struct mm_struct *mm = typed->mm;

		if (!mm) /* a thread of the kernel, or one that ends */
			return id;
		id.dev = mm->exe_file->f_inode->i_sb->s_dev;
		id.ino = mm->exe_file->f_inode->i_ino;
		return id;
	}
	return exe_of(current);
}

/* Every kind that a process decides, but the program it runs: enough to be told about. */
static __always_inline bool select_process(struct task_struct *task, __u32 tgid)
{
	struct selection *s = the_selection();

	if (!s || is_self(s, tgid)) {
		count(COUNT_SKIPPED_SELF, 1);
		return false;
	}
	if (has_rules(KIND_NETNS)) {
		__u32 netns = netns_of(task);

		if (refuses_netns(s, netns)) {
			count(COUNT_SKIPPED_NETNS, 1);
			return false;
		}
	}
	if (has_rules(KIND_PID) && refuses(KIND_PID, verdict_of(&select_pid, &tgid))) {
		count(COUNT_SKIPPED_PID, 1);
		return false;
	}
	if (has_rules(KIND_CGROUP) && refuses(KIND_CGROUP, cgroup_verdict())) {
		count(COUNT_SKIPPED_CGROUP, 1);
		return false;
	}
	return true;
}

/* Everything that the current process decides. */
static __always_inline bool select_task(struct task_struct *task, __u32 tgid)
{
	if (!select_process(task, tgid))
		return false;
	if (has_rules(KIND_EXE)) {
		struct file_id exe = own_exe(task);
		__u8 verdict = verdict_of(&select_exe, &exe);

		if (!(verdict & VERDICT_KNOWN)) {
			count(COUNT_UNDECIDED_EXE, 1);
			return false;
		}
		if (refuses(KIND_EXE, verdict)) {
			count(COUNT_SKIPPED_EXE, 1);
			return false;
		}
	}
	return true;
}

/* What a socket decides: its own namespace (it may differ from the process's) and both its ports. */
static __always_inline bool select_sock(struct sock *sk)
{
	if (has_rules(KIND_NETNS)) {
		__u32 netns = BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
		struct selection *s = the_selection();

		if (!s || refuses_netns(s, netns)) {
			count(COUNT_SKIPPED_NETNS, 1);
			return false;
		}
	}
	if (has_rules(KIND_PORT)) {
		__u16 local = BPF_CORE_READ(sk, __sk_common.skc_num);
		__u16 remote = bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport));
		__u8 verdict = verdict_of(&select_port, &local) | verdict_of(&select_port, &remote);

		if (refuses(KIND_PORT, verdict)) {
			count(COUNT_SKIPPED_PORT, 1);
			return false;
		}
	}
	return true;
}

#endif
