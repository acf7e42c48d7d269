//go:build ignore

/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Plain bytes at crypto/tls of Go. Arguments are in the registers of Go's ABIInternal (go1.17 and later), which holds
 * the goroutine in a register too. A goroutine may be moved to another thread between entry and return, and its stack
 * to another place: so calls are kept by goroutine, and a stack pointer as its distance from the stack's end. There is
 * no return probe that rewrites the stack (Go's runtime walks it): the probes of a return lie on its RET instructions.
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
#include "preempt.h"
#include "calls.h"
#include "probe.h"
#include "coverage.h"
#include "loss.h"
#include "budget.h"
#include "ring.h"
#include "shed.h"
#include "emit.h"
#include "http.h"
#include "frames.h"
#include "plain.h"
#include "goregs.h"

/*
 * The stack pointer, below the end of the goroutine's stack: it stays the same when the runtime moves the stack.
 * runtime.g begins with its stack, {lo, hi}, in every version (the runtime's assembly relies on it).
 */
static __always_inline bool depth_of(struct pt_regs *ctx, const struct caller *who, __u64 *depth)
{
	__u64 hi;

	if (bpf_probe_read_user(&hi, sizeof(hi), (void *)(who->id + 8))) {
		count(LOST_USER_FAULTS, 1);
		return false;
	}
	*depth = PT_REGS_SP(ctx) - hi;
	return true;
}

/* Every program here runs this once, and so counts its hit. */
static __always_inline bool find_caller(struct pt_regs *ctx, struct caller *who, struct entry *e)
{
	__u32 tgid = bpf_get_current_pid_tgid() >> 32;

	e->slot = hit(ctx);
	e->ip = PT_REGS_IP(ctx);
	if (!select_task((struct task_struct *)bpf_get_current_task(), tgid))
		return false;
	who->id = GO_G(ctx);
	who->tgid = tgid;
	who->pad = 0;
	return depth_of(ctx, who, &e->sp);
}

/*
 * func (c *Conn) Read(b []byte) (int, error): b does not escape, so a caller may have it on its stack, above its stack
 * pointer. That stack grows in the handshake of the first Read; then such a buffer moves with it, and is kept as its
 * distance from the stack's end.
 */
static __always_inline void on_read(struct pt_regs *ctx)
{
	struct entry e = {.ssl = GO_ARG1(ctx), .buf = GO_ARG2(ctx), .kind = CALL_READ};
	__u64 hi, buf = e.buf;
	struct tls_call *call;
	struct caller who;

	if (!find_caller(ctx, &who, &e))
		return;
	hi = PT_REGS_SP(ctx) - e.sp;
	call = enter(&who, &e);
	if (call && buf >= PT_REGS_SP(ctx) && buf < hi) {
		call->buf = buf - hi;
		call->moves = true;
	}
	return;
}

SEC("uprobe/go_read")
int go_read_enter(struct pt_regs *ctx)
{
	hold_cpu();
	on_read(ctx);
	release_cpu();
	return 0;
}

static __always_inline void on_read_return(struct pt_regs *ctx)
{
	__s64 n = GO_ARG1(ctx);
	struct entry e = {};
	struct tls_call call;
	struct caller who;

	if (!find_caller(ctx, &who, &e) || !leave(&who, e.sp, &call))
		return;
	if (!innermost(&who))
		bpf_map_delete_elem(&tls_calls, &who);
	/* Bytes count even beside an error (io.Reader). */
	if (call.kind != CALL_READ || n <= 0 || n > 0x7fffffff)
		return;
	if (call.moves)
		call.buf += PT_REGS_SP(ctx) - e.sp;
	tls_io(&call, n, DIRECTION_INGRESS);
}

SEC("uprobe/go_read_exit")
int go_read_exit(struct pt_regs *ctx)
{
	hold_cpu();
	on_read_return(ctx);
	release_cpu();
	return 0;
}

/* Two links of one probe are in together while one takes the other's place: both run at one hit, microseconds apart. */
#define TWIN_NS 100000

static __always_inline bool is_twin(const struct caller *who, const struct entry *e, __u64 n)
{
	struct tls_call *call = innermost(who);

	return call && is_same(call, e) && call->sp == e->sp && call->left == n && !call->sent &&
	       bpf_ktime_get_boot_ns() - call->time < TWIN_NS;
}

/*
 * func (c *Conn) Write(b []byte) (int, error): read at the entry, which needs no probe at its eight returns. The call
 * stays known until the socket has sent more than the plain bytes, which ciphertext always is.
 */
static __always_inline void on_write(struct pt_regs *ctx)
{
	struct tls_call *kept, call = {.ssl = GO_ARG1(ctx), .buf = GO_ARG2(ctx), .kind = CALL_GO_WRITE};
	struct entry e = {.ssl = call.ssl, .buf = call.buf, .kind = CALL_GO_WRITE};
	__s64 n = GO_ARG3(ctx);
	struct caller who;

	if (n <= 0 || n > 0x7fffffff || !find_caller(ctx, &who, &e) || is_twin(&who, &e, n))
		return;
	kept = enter(&who, &e);
	if (kept)
		kept->left = n;
	call.time = bpf_ktime_get_boot_ns();
	tls_io(&call, n, DIRECTION_EGRESS);
}

SEC("uprobe/go_write")
int go_write_enter(struct pt_regs *ctx)
{
	hold_cpu();
	on_write(ctx);
	release_cpu();
	return 0;
}

/* func (c *Conn) clientHandshake, serverHandshake: once per connection, so what an older one left there is over. */
static __always_inline void on_handshake(struct pt_regs *ctx)
{
	struct entry e = {.ssl = GO_ARG1(ctx), .kind = CALL_HANDSHAKE};
	struct tls_key key = {.ssl = e.ssl};
	struct tls_stream *t;
	struct tls_call *call;
	struct caller who;

	if (!find_caller(ctx, &who, &e))
		return;
	key.tgid = who.tgid;
	t = bpf_map_lookup_elem(&tls_streams, &key);
	/* A first Write that shakes hands by itself was read before: that stream is this one. */
	call = innermost(&who);
	if (call && is_same(call, &e) && call->sp == e.sp) /* the other of two links */
		return;
	if (t && (t->sk || !call || call->kind != CALL_GO_WRITE || call->ssl != key.ssl)) {
		emit_close(&t->plain);
		drop_stream(&key, t);
	}
	t = stream_of(&key);
	if (t)
		t->handshake = 1;
	enter(&who, &e);
}

SEC("uprobe/go_handshake")
int go_handshake_enter(struct pt_regs *ctx)
{
	hold_cpu();
	on_handshake(ctx);
	release_cpu();
	return 0;
}

static __always_inline void on_handshake_return(struct pt_regs *ctx)
{
	struct entry e = {};
	struct tls_call call;
	struct caller who;

	if (find_caller(ctx, &who, &e) && leave(&who, e.sp, &call) && !innermost(&who))
		bpf_map_delete_elem(&tls_calls, &who);
}

SEC("uprobe/go_handshake_exit")
int go_handshake_exit(struct pt_regs *ctx)
{
	hold_cpu();
	on_handshake_return(ctx);
	release_cpu();
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
