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
	return 0;
}

/* Takes the call that returns off the thread's stack of calls; those above it ended without a return. */
static __always_inline bool leave(__u64 pid_tgid, __u64 kind, struct tls_call *call)
{
	struct tls_calls *calls = bpf_map_lookup_elem(&tls_calls, &pid_tgid);

	if (!calls || !calls->depth) /* not selected, or begun before the probe */
		return false;
	for (int i = 0; i < MAX_CALLS; i++) {
		__u64 top = calls->depth - 1;

		if (!calls->depth)
			break;
		calls->depth = top;
		if (top >= MAX_CALLS)
			return false;
		*call = *call_at(calls, top);
		if (call->kind == kind)
			return true;
	}
	count(LOST_ORPHAN_RETURNS, 1);
	return false;
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
	if (sniff(&io, &head) && is_http_head(&head))
		io.flags |= FLAG_HEAD;
	return emit(&t->plain, &io);
skip:
	t->plain.offset[direction & 1] += n;
	return 0;
}

/* SSL_read, SSL_write: the int result is the length. */
static __always_inline int exit_plain(struct pt_regs *ctx, __u64 kind, __u8 direction)
{
	int ret = PT_REGS_RC(ctx);
	struct tls_call call;

	if (!leave(bpf_get_current_pid_tgid(), kind, &call) || ret <= 0)
		return 0;
	return tls_io(&call, ret, direction);
}

/* SSL_read_ex, SSL_write_ex: 1 for success, the length through a pointer. */
static __always_inline int exit_ex(struct pt_regs *ctx, __u64 kind, __u8 direction)
{
	int ret = PT_REGS_RC(ctx);
	struct tls_call call;
	__u64 n = 0;

	if (!leave(bpf_get_current_pid_tgid(), kind, &call) || ret != 1)
		return 0;
	if (bpf_probe_read_user(&n, sizeof(n), (void *)call.done)) {
		count(LOST_USER_FAULTS, 1);
		return 0;
	}
	if (!n || n > 0x7fffffff)
		return 0;
	return tls_io(&call, n, direction);
}

SEC("uprobe/ssl_read")
int BPF_KPROBE(ssl_read_enter, __u64 ssl, __u64 buf) { return enter(ctx, CALL_READ, ssl, buf, 0); }

SEC("uretprobe/ssl_read")
int BPF_KPROBE(ssl_read_exit) { return exit_plain(ctx, CALL_READ, DIRECTION_INGRESS); }

SEC("uprobe/ssl_write")
int BPF_KPROBE(ssl_write_enter, __u64 ssl, __u64 buf) { return enter(ctx, CALL_WRITE, ssl, buf, 0); }

SEC("uretprobe/ssl_write")
int BPF_KPROBE(ssl_write_exit) { return exit_plain(ctx, CALL_WRITE, DIRECTION_EGRESS); }

SEC("uprobe/ssl_read_ex")
int BPF_KPROBE(ssl_read_ex_enter, __u64 ssl, __u64 buf, __u64 num, __u64 done)
{
	return enter(ctx, CALL_READ, ssl, buf, done);
}

SEC("uretprobe/ssl_read_ex")
int BPF_KPROBE(ssl_read_ex_exit) { return exit_ex(ctx, CALL_READ, DIRECTION_INGRESS); }

SEC("uprobe/ssl_write_ex")
int BPF_KPROBE(ssl_write_ex_enter, __u64 ssl, __u64 buf, __u64 num, __u64 done)
{
	return enter(ctx, CALL_WRITE, ssl, buf, done);
}

SEC("uretprobe/ssl_write_ex")
int BPF_KPROBE(ssl_write_ex_exit) { return exit_ex(ctx, CALL_WRITE, DIRECTION_EGRESS); }

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

SEC("uretprobe/ssl_handshake")
int BPF_KPROBE(ssl_handshake_exit)
{
	struct tls_call call;

	leave(bpf_get_current_pid_tgid(), CALL_HANDSHAKE, &call);
	return 0;
}

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
