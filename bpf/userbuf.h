/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Finds the user buffer of the system call that the current task is in, from its saved registers. That is one
 * way for all rungs: tracepoints and kprobes below the system call do not carry the buffer in a stable form.
 */
#ifndef SPILE_USERBUF_H
#define SPILE_USERBUF_H

#if defined(__TARGET_ARCH_x86)
enum {
	NR_READ = 0, NR_WRITE = 1, NR_READV = 19, NR_WRITEV = 20, NR_SENDFILE = 40, NR_SENDTO = 44,
	NR_RECVFROM = 45, NR_SENDMSG = 46, NR_RECVMSG = 47, NR_RECVMMSG = 299, NR_SENDMMSG = 307,
};
#define TS_COMPAT 2
#elif defined(__TARGET_ARCH_arm64)
enum {
	NR_READ = 63, NR_WRITE = 64, NR_READV = 65, NR_WRITEV = 66, NR_SENDFILE = 71, NR_SENDTO = 206,
	NR_RECVFROM = 207, NR_SENDMSG = 211, NR_RECVMSG = 212, NR_RECVMMSG = 243, NR_SENDMMSG = 269,
};
#define TIF_32BIT 22
#endif

struct syscall {
	__s64 nr;
	__u64 args[4];
};

/* 64-bit system calls only: the numbers and the layout of iovecs differ in a 32-bit task. */
static __always_inline bool is_compat(struct task_struct *task)
{
#if defined(__TARGET_ARCH_x86)
	return BPF_CORE_READ(task, thread_info.status) & TS_COMPAT;
#else
	return BPF_CORE_READ(task, thread_info.flags) >> TIF_32BIT & 1;
#endif
}

static __always_inline void read_syscall(struct pt_regs *regs, struct syscall *call)
{
#if defined(__TARGET_ARCH_x86)
	call->nr = BPF_CORE_READ(regs, orig_ax);
	call->args[0] = BPF_CORE_READ(regs, di);
	call->args[1] = BPF_CORE_READ(regs, si);
	call->args[2] = BPF_CORE_READ(regs, dx);
	call->args[3] = BPF_CORE_READ(regs, r10);
#else
	call->nr = BPF_CORE_READ(regs, syscallno);
	call->args[0] = BPF_CORE_READ(regs, orig_x0); /* regs[0] may hold the result already */
	call->args[1] = BPF_CORE_READ(regs, user_regs.regs[1]);
	call->args[2] = BPF_CORE_READ(regs, user_regs.regs[2]);
	call->args[3] = BPF_CORE_READ(regs, user_regs.regs[3]);
#endif
}

/* The registers with which the current task entered the kernel. */
static __always_inline struct pt_regs *user_regs(struct task_struct *task)
{
	/* 5.15 has the helper; it takes the typed task only. */
	if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_task_pt_regs))
		return (struct pt_regs *)bpf_task_pt_regs(bpf_get_current_task_btf());
#if defined(__TARGET_ARCH_x86)
	/* Before: they end the stack, which is 16 KiB. */
	return (struct pt_regs *)((char *)BPF_CORE_READ(task, stack) + 16384 - bpf_core_type_size(struct pt_regs));
#else
	return NULL;
#endif
}

/*
 * Fills io->buf and io->iovs, or sets FLAG_UNSEEN where the bytes do not lie in a buffer we can name. False if
 * the call only peeked: nothing moved.
 */
static __always_inline bool find_buffer(struct task_struct *task, struct pt_regs *regs, struct io *io)
{
	bool egress = io->direction == DIRECTION_EGRESS;
	struct syscall call = {.nr = -1};
	__u64 flags = 0;

	io->flags |= FLAG_UNSEEN;
	if (!regs || (BPF_CORE_READ(task, flags) & (PF_IO_WORKER | PF_KTHREAD)) || is_compat(task))
		return true;
	read_syscall(regs, &call);
	if (call.nr == NR_RECVFROM || call.nr == NR_RECVMMSG)
		flags = call.args[3];
	else if (call.nr == NR_RECVMSG)
		flags = call.args[2];
	if (!egress && (flags & MSG_PEEK))
		return false;
	if (!egress && (flags & MSG_TRUNC)) /* tcp(7): the bytes are discarded */
		return true;
	if (egress ? call.nr == NR_WRITE || call.nr == NR_SENDTO : call.nr == NR_READ || call.nr == NR_RECVFROM) {
		io->buf = call.args[1];
		io->flags &= ~FLAG_UNSEEN;
	} else if (call.nr == (egress ? NR_WRITEV : NR_READV)) {
		io->buf = call.args[1];
		io->iovs = call.args[2];
		io->flags &= ~FLAG_UNSEEN;
	} else if (call.nr == (egress ? NR_SENDMSG : NR_RECVMSG)) {
		struct user_msghdr msg;

		if (bpf_probe_read_user(&msg, sizeof(msg), (void *)call.args[1])) {
			count(LOST_USER_FAULTS, 1);
			return true;
		}
		io->buf = msg.iov;
		io->iovs = msg.iovlen;
		io->flags &= ~FLAG_UNSEEN;
	}
	return true;
}

#endif
