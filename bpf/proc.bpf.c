//go:build ignore

/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Processes: what they run, when they end, whom they descend from. Events leave by the control ring; they
 * carry no byte of user memory but the name the kernel keeps.
 */
#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_tracing.h>
#include "event.h"
#include "count.h"
#include "select.h"
#include "policy.h"
#include "stream.h"
#include "calls.h"
#include "coverage.h"
#include "loss.h"
#include "budget.h"
#include "ring.h"
#include "shed.h"
#include "userbuf.h"
#include "probe.h"
#include "crash.h"

/* One line of the list of processes. */
struct process {
	__u64 start; /* ns since boot */
	__u64 dev;   /* of the executable; 0 for a kernel thread */
	__u64 ino;
	__u32 tgid;
	__u32 parent;
	__u32 netns;
	__u32 reader; /* tgid of who reads the list, as the kernel numbers it */
};

/* Only for its type: bpf2go makes the Go twins from BTF. */
const struct process *unused_process __attribute__((unused));
const struct event *unused_event __attribute__((unused));
const struct site_check *unused_site_check __attribute__((unused));

static __always_inline int emit_process(struct task_struct *task, __u8 kind)
{
	__u32 tgid = bpf_get_current_pid_tgid() >> 32;
	struct file_id exe = exe_of(task);
	struct event *e;

	if (!select_process(task, tgid))
		return 0;
	e = bpf_ringbuf_reserve(&control_ring, sizeof(*e), 0);
	if (!e) {
		count(LOST_CONTROL_RING_FULL, 1);
		return 0;
	}
	__builtin_memset(e, 0, sizeof(*e));
	e->time = bpf_ktime_get_boot_ns();
	e->kind = kind;
	e->offset = exe.dev;
	e->peer_offset = exe.ino;
	e->cgroup = bpf_get_current_cgroup_id();
	e->start = BPF_CORE_READ(task, group_leader, start_boottime);
	e->tgid = tgid;
	e->tid = (__u32)bpf_get_current_pid_tgid();
	e->netns = BPF_CORE_READ(task, nsproxy, net_ns, ns.inum);
	bpf_get_current_comm(e->comm, sizeof(e->comm));
	bpf_ringbuf_submit(e, 0);
	return 0;
}

SEC("raw_tp/sched_process_exec")
int process_exec(struct bpf_raw_tracepoint_args *ctx)
{
	struct caller who = this_thread();

	/* What the program before was in the middle of is over. */
	bpf_map_delete_elem(&tls_calls, &who);
	bpf_map_delete_elem(&memory_ios, &who);
	return emit_process((struct task_struct *)bpf_get_current_task(), EVENT_EXEC);
}

SEC("raw_tp/sched_process_fork")
int process_fork(struct bpf_raw_tracepoint_args *ctx)
{
	__u32 parent = BPF_CORE_READ((struct task_struct *)ctx->args[0], tgid);
	__u32 child = BPF_CORE_READ((struct task_struct *)ctx->args[1], tgid);
	__u8 *verdict;

	if (parent == child || !has_rules(KIND_PID)) /* a thread */
		return 0;
	verdict = bpf_map_lookup_elem(&select_pid, &parent);
	if (verdict && bpf_map_update_elem(&select_pid, &child, verdict, BPF_ANY))
		count(LOST_PIDS_FULL, 1);
	return 0;
}

/* What this thread was in the middle of is told by nobody else. */
static __always_inline void end_calls(struct task_struct *task, __u64 pid_tgid)
{
	struct caller who = this_thread();
	struct tls_calls *calls = bpf_map_lookup_elem(&tls_calls, &who);

	for (__u64 i = 0; calls && i < MAX_CALLS; i++) {
		struct tls_call *call = call_at(calls, i);

		if (i < calls->depth && call->kind == CALL_WRITE && call->sent)
			count(LOST_CALLS_KILLED, 1);
	}
	if (calls)
		bpf_map_delete_elem(&tls_calls, &who);
	bpf_map_delete_elem(&memory_ios, &who);
	if (bpf_map_lookup_elem(&pendings, &pid_tgid)) {
		bpf_map_delete_elem(&pendings, &pid_tgid);
		if (select_task(task, pid_tgid >> 32))
			count(LOST_RETURNS, 1);
	}
}

SEC("raw_tp/signal_deliver")
int signal_deliver(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct kernel_siginfo *info = (struct kernel_siginfo *)ctx->args[1];
	struct pt_regs *regs = user_regs(task);
	__u32 tgid = bpf_get_current_pid_tgid() >> 32;
	struct fault f = {.sig = ctx->args[0]};

	if (!is_fatal(f.sig) || !regs)
		return 0;
	f.time = bpf_ktime_get_boot_ns();
	f.exe = exe_of(task);
#if defined(__TARGET_ARCH_x86)
	f.ip = BPF_CORE_READ(regs, ip);
#else
	f.ip = BPF_CORE_READ(regs, user_regs.pc);
#endif
	f.code = BPF_CORE_READ(info, si_code);
	if (f.sig == SIGSYS)
		f.syscall = BPF_CORE_READ(info, _sifields._sigsys._syscall);
	else if ((f.code == SI_USER || f.code == SI_TKILL) && BPF_CORE_READ(info, _sifields._kill._pid) == own_number(task))
		f.flags |= CRASH_BY_SELF;
	if (in_uprobe_area(task, f.ip))
		f.flags |= CRASH_IN_AREA;
	/* A handler that aborts, or raises the signal again, must not hide the one that it was called for. */
	struct fault *first = bpf_map_lookup_elem(&faults, &tgid);

	if (first && (f.flags & CRASH_BY_SELF) && f.time - first->time < FAULT_LIFE_NS &&
	    (first->code > 0 || first->sig == SIGTRAP))
		return 0;
	where(&f, regs);
	bpf_map_update_elem(&faults, &tgid, &f, BPF_ANY);
	return 0;
}

/* Seccomp may end a process without delivering its signal: then the status says which it was. */
static __always_inline void emit_crash(struct task_struct *task, __u32 tgid)
{
	struct fault *last = bpf_map_lookup_elem(&faults, &tgid), f = {};
	__u64 now = bpf_ktime_get_boot_ns();
	int status = BPF_CORE_READ(task, exit_code);
	struct event *e;

	if (last) {
		f = *last;
		bpf_map_delete_elem(&faults, &tgid);
	}
	if (!status)
		return;
	if (!last || now - f.time > FAULT_LIFE_NS) {
		__builtin_memset(&f, 0, sizeof(f));
		f.sig = status & 0x7f;
		f.time = now;
		if (!is_fatal(f.sig))
			return;
		where(&f, user_regs(task));
	}
	e = bpf_ringbuf_reserve(&control_ring, sizeof(*e), 0);
	if (!e) {
		count(LOST_CONTROL_RING_FULL, 1);
		return;
	}
	__builtin_memset(e, 0, sizeof(*e));
	e->time = now;
	e->kind = EVENT_CRASH;
	e->flags = f.flags;
	e->stream = f.slot;
	e->conn = f.ip;
	e->conn_birth = f.time;
	e->offset = f.exe.dev;
	e->peer_offset = f.exe.ino;
	e->seq = f.sig;
	e->length = f.syscall;
	e->heads = f.code;
	e->peer_heads = status;
	e->cgroup = bpf_get_current_cgroup_id();
	e->start = BPF_CORE_READ(task, group_leader, start_boottime);
	e->tgid = tgid;
	bpf_get_current_comm(e->comm, sizeof(e->comm));
	bpf_ringbuf_submit(e, BPF_RB_FORCE_WAKEUP);
}

SEC("raw_tp/sched_process_exit")
int process_exit(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	__u32 tgid = pid_tgid >> 32;
	struct process_id id = {.tgid = tgid};
	struct coverage *covered;

	bool last = BPF_CORE_READ(task, signal, live.counter) <= 0;
	__u8 told = 1;

	id.start = BPF_CORE_READ(task, group_leader, start_boottime);
	if (last && bpf_map_update_elem(&ended, &id, &told, BPF_NOEXIST))
		last = false;
	if (last)
		emit_crash(task, tgid);
	end_calls(task, pid_tgid);
	if (!last) /* other threads live on */
		return 0;
	emit_process(task, EVENT_EXIT);
	covered = bpf_map_lookup_elem(&coverages, &id);
	if (covered)
		covered->ended = 1;
	bpf_map_delete_elem(&select_pid, &tgid);
	return 0;
}

SEC("iter/task")
int list_processes(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct process p = {};
	struct file_id exe;

	if (!task || BPF_CORE_READ(task, pid) != BPF_CORE_READ(task, tgid))
		return 0;
	exe = exe_of(task);
	p.start = BPF_CORE_READ(task, start_boottime);
	p.dev = exe.dev;
	p.ino = exe.ino;
	p.tgid = BPF_CORE_READ(task, tgid);
	p.parent = BPF_CORE_READ(task, real_parent, tgid);
	p.netns = BPF_CORE_READ(task, nsproxy, net_ns, ns.inum);
	p.reader = bpf_get_current_pid_tgid() >> 32;
	bpf_seq_write(ctx->meta->seq, &p, sizeof(p));
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
