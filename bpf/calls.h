/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The calls into TLS libraries that have not returned, by who is in them: a thread, or a goroutine of Go, which may
 * return on another thread than it entered on.
 */
#ifndef SPILE_CALLS_H
#define SPILE_CALLS_H

enum call_kind {
	CALL_READ = 1,
	CALL_WRITE = 2,
	CALL_HANDSHAKE = 3,
	CALL_GO_WRITE = 4, /* was read at its entry, and has no probe at its return: it ends when it has sent */
};

struct caller {
	__u64 id; /* tid, or address of the g of Go's runtime */
	__u32 tgid;
	__u32 pad;
};

struct tls_call {
	__u64 ssl;
	__u64 buf;
	__u64 done; /* address of the size_t result of the _ex functions; 0 = the return value counts */
	__u64 time;
	__u64 sp;   /* of the caller: an older call with a lower one has ended without a return (longjmp) */
	__u32 kind; /* enum call_kind */
	__u32 sent; /* ciphertext bytes that a write moved into a socket */
	__u64 left; /* CALL_GO_WRITE: sent bytes after which it is over */
	__u64 ip;   /* of the probe */
	__u32 slot; /* of the probe */
	__u8 wrote; /* a record went into memory during the call */
	__u8 moves; /* buf is a distance from the end of the goroutine's stack */
	__u8 pad[2];
};

#define MAX_CALLS 3 /* TLS in TLS (an HTTPS proxy) needs 2 */

struct tls_calls {
	__u64 depth; /* may exceed MAX_CALLS: deeper calls are counted, not kept */
	struct tls_call at[MAX_CALLS + 1]; /* a power of two, for the mask */
};

/* One per thread that ever called a TLS library, removed when the thread ends; one per goroutine that is in a call. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 32768);
	__type(key, struct caller);
	__type(value, struct tls_calls);
} tls_calls SEC(".maps");

/* What a thread moved outside of TLS calls, and what it gave to a library since. */
struct memory_io {
	__u64 received_by; /* socket, of the last receive; 0 = it is used up */
	__u64 ssl;         /* that wrote into memory since the last send; 0 = none */
	__u32 received;    /* bytes */
	__u32 plain;       /* bytes that were written */
	__u32 records;     /* at least that many carry them */
	__u32 mixed;       /* several objects wrote: the next send is nobody's */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, struct caller); /* a thread; removed when it ends */
	__type(value, struct memory_io);
} memory_ios SEC(".maps");

/* Source of new entries: too large for the 512 bytes of stack. */
static const struct tls_calls no_calls;

/* The i-th call, i < MAX_CALLS. The mask comes after the compiler has forgotten the bound, so it stays for the verifier. */
static __always_inline struct tls_call *call_at(struct tls_calls *calls, __u64 i)
{
	asm volatile("" : "+r"(i));
	return &calls->at[i & MAX_CALLS];
}

static __always_inline struct caller this_thread(void)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();

	return (struct caller){.id = (__u32)pid_tgid, .tgid = pid_tgid >> 32};
}

/* The innermost call that a caller is in. */
static __always_inline struct tls_call *innermost(const struct caller *who)
{
	struct tls_calls *calls = bpf_map_lookup_elem(&tls_calls, who);

	if (!calls || !calls->depth || calls->depth > MAX_CALLS)
		return NULL;
	return call_at(calls, calls->depth - 1);
}

#define PID_MAX (1 << 22) /* PID_MAX_LIMIT of include/linux/threads.h */

/* The goroutine that entered the kernel, if the thread runs Go: else whatever the register holds, which no call knows. */
static __always_inline __u64 goroutine(struct pt_regs *regs)
{
#if defined(__TARGET_ARCH_x86)
	return regs ? BPF_CORE_READ(regs, r14) : 0;
#else
	return regs ? BPF_CORE_READ(regs, user_regs.regs[28]) : 0;
#endif
}

/* The innermost TLS call that this thread or goroutine is in; who says which of the two. */
static __always_inline struct tls_call *current_call(struct pt_regs *regs, struct caller *who)
{
	struct tls_call *call;
	__u64 thread;

	*who = this_thread();
	call = innermost(who);
	if (call)
		return call;
	thread = who->id;
	who->id = goroutine(regs);
	/* In a program without Go the register holds anything, the id of another thread included. */
	call = who->id < PID_MAX ? NULL : innermost(who);
	if (!call)
		who->id = thread;
	return call;
}

/* A call as its probe shows it. */
struct entry {
	__u64 ssl;
	__u64 buf;
	__u64 done;
	__u64 sp;
	__u64 ip;
	__u32 slot;
	__u32 kind;
};

static __always_inline bool is_same(const struct tls_call *call, const struct entry *e)
{
	return call->ssl == e->ssl && call->buf == e->buf && call->kind == e->kind;
}

/*
 * Remembers a call; returns where its length and time are to be kept, or NULL where there is no room. A probe inside a
 * function that has one too (agent/probe goes from one place to another) takes the call over: it is seen once.
 */
static __always_inline struct tls_call *enter(const struct caller *who, const struct entry *e)
{
	struct tls_calls *calls = bpf_map_lookup_elem(&tls_calls, who);
	__u64 depth;

	if (!calls) {
		if (bpf_map_update_elem(&tls_calls, who, &no_calls, BPF_NOEXIST)) {
			count(LOST_CALLS_FULL, 1);
			return NULL;
		}
		calls = bpf_map_lookup_elem(&tls_calls, who);
		if (!calls)
			return NULL;
	}
	depth = calls->depth;
	for (int i = MAX_CALLS; i > 0; i--)
		if (depth == i && (calls->at[i - 1].sp <= e->sp || is_same(&calls->at[i - 1], e)))
			depth = i - 1;
	calls->depth = depth + 1;
	if (depth >= MAX_CALLS) {
		count(LOST_CALLS_NESTED, 1);
		return NULL;
	}
	struct tls_call *call = call_at(calls, depth);

	call->ssl = e->ssl;
	call->buf = e->buf;
	call->done = e->done;
	call->moves = 0;
	call->time = e->kind == CALL_READ ? 0 : bpf_ktime_get_boot_ns(); /* a read is as old as its return */
	call->sp = e->sp;
	call->ip = e->ip;
	call->slot = e->slot;
	call->kind = e->kind;
	call->sent = 0;
	call->left = 0;
	call->wrote = 0;
	return call;
}

/*
 * Takes the call that returns off the caller's stack of calls: the outermost of those whose stack frames lie below
 * sp. Calls inside it ended without a return, or run on a stack of their own (fibers); they are given up rather than
 * taken for another.
 */
static __always_inline bool leave(const struct caller *who, __u64 sp, struct tls_call *call)
{
	struct tls_calls *calls = bpf_map_lookup_elem(&tls_calls, who);
	__u64 taken = 0;

	if (!calls || !calls->depth) /* not selected, or begun before the probe */
		return false;
	if (calls->depth > MAX_CALLS) { /* one that was not kept */
		calls->depth--;
		return false;
	}
	for (int i = MAX_CALLS; i > 0; i--) {
		struct tls_call *top = &calls->at[i - 1];

		if (calls->depth != i || top->sp > sp)
			continue;
		*call = *top;
		calls->depth = i - 1;
		taken++;
	}
	if (!taken)
		count(LOST_ORPHAN_RETURNS, 1);
	else if (taken > 1)
		count(LOST_CALLS_ABANDONED, taken - 1);
	return taken;
}

/* Ends the innermost call of a goroutine, and forgets a goroutine that is in none. */
static __always_inline void end_innermost(const struct caller *who)
{
	struct tls_calls *calls = bpf_map_lookup_elem(&tls_calls, who);

	if (!calls)
		return;
	if (calls->depth > 1)
		calls->depth--;
	else
		bpf_map_delete_elem(&tls_calls, who);
}

#endif
