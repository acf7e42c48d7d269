//go:build ignore

/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Plain bytes at the calls of a C TLS library (the OpenSSL API). A call is remembered at entry and read at
 * return: then its length is known, a retry has not moved anything, and the pages are resident. The socket is
 * never asked of the library: the socket hook of the same thread binds it (sock.bpf.c, bind).
 */
#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_tracing.h>
#include "event.h"
#include "count.h"
#include "select.h"
#include "stream.h"
#include "ring.h"
#include "http.h"
#include "frames.h"

/* Remembers a call. */
static __always_inline int enter(struct pt_regs *ctx, __u64 kind, __u64 ssl, __u64 buf, __u64 done)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	__u64 pid_tgid = bpf_get_current_pid_tgid(), sp = PT_REGS_SP(ctx), depth;
	struct tls_calls *calls;

	if (!select_task(task, pid_tgid >> 32))
		return 0;
	calls = bpf_map_lookup_elem(&tls_calls, &pid_tgid);
	if (!calls) {
		if (bpf_map_update_elem(&tls_calls, &pid_tgid, &no_calls, BPF_NOEXIST)) {
			count(LOST_CALLS_FULL, 1);
			return 0;
		}
		calls = bpf_map_lookup_elem(&tls_calls, &pid_tgid);
		if (!calls)
			return 0;
	}
	depth = calls->depth;
	for (int i = MAX_CALLS; i > 0; i--)
		if (depth == i && calls->at[i - 1].sp <= sp)
			depth = i - 1;
	calls->depth = depth + 1;
	if (depth >= MAX_CALLS) {
		count(LOST_CALLS_NESTED, 1);
		return 0;
	}
	struct tls_call *call = call_at(calls, depth);

	call->ssl = ssl;
	call->buf = buf;
	call->done = done;
	call->time = bpf_ktime_get_boot_ns();
	call->sp = sp;
	call->kind = kind;
	call->sent = 0;
	return 0;
}

/*
 * Takes the call that returns off the thread's stack of calls: the outermost of those whose stack frames lie below
 * the caller's. Calls inside it ended without a return, or run on a stack of their own (fibers); they are given up
 * rather than taken for another.
 */
static __always_inline bool leave(struct pt_regs *ctx, __u64 pid_tgid, struct tls_call *call)
{
	struct tls_calls *calls = bpf_map_lookup_elem(&tls_calls, &pid_tgid);
	__u64 sp = PT_REGS_SP(ctx), taken = 0;

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

/* A call of the current thread moved n plain bytes. */
static __noinline int tls_io(struct tls_call *call, __u32 n, __u8 direction)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct tls_key key = {.ssl = call->ssl, .tgid = pid_tgid >> 32};
	struct io io = {.time = call->time, .buf = call->buf, .length = n, .direction = direction};
	struct tls_stream *t = stream_of(&key);
	union head head;

	if (!t || t->refused)
		return 0;
	own(&t->plain, task, pid_tgid);
	if (!t->sk && has_rules(KIND_PORT)) {
		count(COUNT_UNDECIDED_PORT, 1);
		goto skip;
	}
	if (muted(&t->plain)) {
		count(COUNT_MUTED_BYTES, n);
		goto skip;
	}
	if (!t->sk && t->handshake)
		t->plain.flags |= FLAG_FRESH;
	if (direction == DIRECTION_INGRESS)
		io.time = bpf_ktime_get_boot_ns();
	sniff(&io, &head);
	look(&t->plain, &io, &head);
	return emit(&t->plain, &io);
skip:
	t->plain.offset[direction & 1] += n;
	return 0;
}

/*
 * The return of any of the functions. SSL_read and SSL_write give the length as an int; the _ex functions give 1
 * for success, and the length through a pointer.
 */
static __always_inline int leave_and_read(struct pt_regs *ctx)
{
	int ret = PT_REGS_RC(ctx);
	struct tls_call call;
	__u64 n = ret;

	if (!leave(ctx, bpf_get_current_pid_tgid(), &call) || call.kind == CALL_HANDSHAKE || ret <= 0)
		return 0;
	if (call.done && bpf_probe_read_user(&n, sizeof(n), (void *)call.done)) {
		count(LOST_USER_FAULTS, 1);
		return 0;
	}
	if (!n || n > 0x7fffffff)
		return 0;
	return tls_io(&call, n, call.kind == CALL_WRITE ? DIRECTION_EGRESS : DIRECTION_INGRESS);
}

SEC("uprobe/ssl_read")
int BPF_KPROBE(ssl_read_enter, __u64 ssl, __u64 buf) { return enter(ctx, CALL_READ, ssl, buf, 0); }

SEC("uprobe/ssl_write")
int BPF_KPROBE(ssl_write_enter, __u64 ssl, __u64 buf) { return enter(ctx, CALL_WRITE, ssl, buf, 0); }

SEC("uprobe/ssl_read_ex")
int BPF_KPROBE(ssl_read_ex_enter, __u64 ssl, __u64 buf, __u64 num, __u64 done)
{
	return enter(ctx, CALL_READ, ssl, buf, done);
}

SEC("uprobe/ssl_write_ex")
int BPF_KPROBE(ssl_write_ex_enter, __u64 ssl, __u64 buf, __u64 num, __u64 done)
{
	return enter(ctx, CALL_WRITE, ssl, buf, done);
}

/* SSL_do_handshake, SSL_accept, SSL_connect: no plain bytes, but the socket, and the certainty of a fresh stream. */
SEC("uprobe/ssl_handshake")
int BPF_KPROBE(ssl_handshake_enter, __u64 ssl)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	struct tls_key key = {.ssl = ssl, .tgid = pid_tgid >> 32};
	struct tls_stream *t;

	if (!select_task((struct task_struct *)bpf_get_current_task(), pid_tgid >> 32))
		return 0;
	if (!bpf_map_lookup_elem(&tls_streams, &key)) {
		t = stream_of(&key);
		if (t)
			t->handshake = 1;
	}
	return enter(ctx, CALL_HANDSHAKE, ssl, 0, 0);
}

/* One program for all returns: the call says which function it was. */
SEC("uretprobe/ssl")
int ssl_exit(struct pt_regs *ctx) { return leave_and_read(ctx); }

SEC("uprobe/ssl_free")
int BPF_KPROBE(ssl_free_enter, __u64 ssl)
{
	struct tls_key key = {.ssl = ssl, .tgid = bpf_get_current_pid_tgid() >> 32};
	struct tls_stream *t = bpf_map_lookup_elem(&tls_streams, &key);

	if (!t)
		return 0;
	emit_close(&t->plain);
	bpf_map_delete_elem(&tls_streams, &key);
	return 0;
}

/* Does nothing: the floor of a probe's cost, for the benchmark. */
SEC("uprobe/empty")
int empty(struct pt_regs *ctx) { return 0; }

char LICENSE[] SEC("license") = "Dual BSD/GPL";
