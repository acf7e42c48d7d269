/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What a process was doing when a signal came that ends most programs. A handler may survive it (Go, Java), so it counts
 * only when the process ends soon after: then user space is told where it was, and judges whether a probe was the cause.
 */
#ifndef SPILE_CRASH_H
#define SPILE_CRASH_H

#define FAULT_LIFE_NS 5000000000ULL /* how long before the end a signal may have caused it */
#define SITE_BYTES 16               /* the longest instruction of x86 has 15 */
#define PAGE_BYTES 4096

enum { SIGILL = 4, SIGTRAP = 5, SIGABRT = 6, SIGBUS = 7, SIGFPE = 8, SIGSEGV = 11, SIGSYS = 31 };
enum { SI_USER = 0, SI_TKILL = -6 };

/* The last such signal of a process. */
struct fault {
	struct file_id exe; /* it is gone at the end */
	__u64 time;
	__u64 ip;
	__u32 slot;
	__u32 sig;
	__s32 code;    /* si_code */
	__s32 syscall; /* of SIGSYS */
	__u8 flags;    /* enum crash_flags */
	__u8 pad[7];
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH); /* a signal that nobody dies of is only worth keeping for seconds */
	__uint(max_entries, 1024);
	__type(key, __u32); /* tgid */
	__type(value, struct fault);
} faults SEC(".maps");

/* Processes whose end was told: of several threads that end at once each may take itself for the last. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct process_id);
	__type(value, __u8);
} ended SEC(".maps");

static __always_inline bool is_fatal(__u32 sig)
{
	return sig == SIGSEGV || sig == SIGTRAP || sig == SIGILL || sig == SIGSYS || sig == SIGBUS || sig == SIGABRT ||
	       sig == SIGFPE;
}

/* The page of a process in which the kernel runs probed instructions, and to which return probes return. */
static __always_inline bool in_uprobe_area(struct task_struct *task, __u64 ip)
{
	struct xol_area *area;
	__u64 start;

	if (!bpf_core_field_exists(task->mm->uprobes_state.xol_area))
		return false;
	area = BPF_CORE_READ(task, mm, uprobes_state.xol_area);
	start = BPF_CORE_READ(area, vaddr);
	return start && ip >= start && ip - start < PAGE_BYTES;
}

/* The number of the process in its own pid namespace, as signals name their senders. */
static __always_inline __s32 own_number(struct task_struct *task)
{
	struct pid *pid = BPF_CORE_READ(task, group_leader, thread_pid);
	__u64 at = (__u64)pid + bpf_core_field_offset(struct pid, numbers);
	__s32 nr = 0;

	at += (__u64)BPF_CORE_READ(pid, level) * bpf_core_type_size(struct upid) + bpf_core_field_offset(struct upid, nr);
	bpf_probe_read_kernel(&nr, sizeof(nr), (void *)at);
	return nr;
}

/* The TLS call that the thread is in, for its slot; nothing is known of goroutines here but by their register. */
static __always_inline void where(struct fault *f, struct pt_regs *regs)
{
	struct caller who;
	struct tls_call *call = current_call(regs, &who);

	if (!call)
		return;
	f->flags |= CRASH_IN_CALL;
	f->slot = call->slot;
	if (f->ip - call->ip < SITE_BYTES)
		f->flags |= CRASH_AT_SITE;
}

#endif
