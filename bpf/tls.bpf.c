//go:build ignore

/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Plain bytes at the calls of a C TLS library: the OpenSSL API, and GnuTLS, whose functions take the same arguments.
 * A call is remembered at entry and read at return: then its length is known, a retry has not moved anything, and the
 * pages are resident. The socket is never asked of the library: the socket hook of the same thread binds it, or the
 * first bytes of a record that the library wrote into memory (bind.h).
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
#include "bind.h"
#include "votes.h"
#include "plain.h"

static __always_inline bool selected(void)
{
	return select_task((struct task_struct *)bpf_get_current_task(), bpf_get_current_pid_tgid() >> 32);
}

static __always_inline int begin(struct pt_regs *ctx, __u32 kind, __u64 ssl, __u64 buf, __u64 done)
{
	struct entry e = {.ssl = ssl, .buf = buf, .done = done, .sp = PT_REGS_SP(ctx), .ip = PT_REGS_IP(ctx), .kind = kind};
	struct caller who = this_thread();

	hold_cpu();
	e.slot = hit(ctx);
	if (selected())
		enter(&who, &e);
	release_cpu();
	return 0;
}

SEC("uprobe/ssl_read")
int BPF_KPROBE(ssl_read_enter, __u64 ssl, __u64 buf) { return begin(ctx, CALL_READ, ssl, buf, 0); }

SEC("uprobe/ssl_write")
int BPF_KPROBE(ssl_write_enter, __u64 ssl, __u64 buf) { return begin(ctx, CALL_WRITE, ssl, buf, 0); }

SEC("uprobe/ssl_read_ex")
int BPF_KPROBE(ssl_read_ex_enter, __u64 ssl, __u64 buf, __u64 num, __u64 done)
{
	return begin(ctx, CALL_READ, ssl, buf, done);
}

SEC("uprobe/ssl_write_ex")
int BPF_KPROBE(ssl_write_ex_enter, __u64 ssl, __u64 buf, __u64 num, __u64 done)
{
	return begin(ctx, CALL_WRITE, ssl, buf, done);
}

/* OpenSSL 3.3: SSL_write_ex2, and the function of its own that SSL_write calls too. */
SEC("uprobe/ssl_write_ex2")
int BPF_KPROBE(ssl_write_ex2_enter, __u64 ssl, __u64 buf, __u64 num, __u64 flags, __u64 done)
{
	return begin(ctx, CALL_WRITE, ssl, buf, done);
}

/* SSL_do_handshake, SSL_accept, SSL_connect: no plain bytes, but the socket, and the certainty of a fresh stream. */
static __always_inline void on_handshake(struct pt_regs *ctx, __u64 ssl)
{
	struct caller who = this_thread();
	struct entry e = {.ssl = ssl, .sp = PT_REGS_SP(ctx), .ip = PT_REGS_IP(ctx), .slot = hit(ctx), .kind = CALL_HANDSHAKE};
	struct tls_key key = {.ssl = ssl, .tgid = who.tgid};
	struct tls_stream *t;

	if (!selected())
		return;
	if (!bpf_map_lookup_elem(&tls_streams, &key)) {
		t = stream_of(&key);
		if (t)
			t->handshake = 1;
	}
	enter(&who, &e);
}

SEC("uprobe/ssl_handshake")
int BPF_KPROBE(ssl_handshake_enter, __u64 ssl)
{
	hold_cpu();
	on_handshake(ctx, ssl);
	release_cpu();
	return 0;
}

/*
 * The return of any of the functions. SSL_read and SSL_write give the length as an int (GnuTLS as a long, at most
 * 16 KiB); the _ex functions give 1 for success, and the length through a pointer.
 */
static __always_inline void on_return(struct pt_regs *ctx)
{
	struct caller who = this_thread();
	int ret = PT_REGS_RC(ctx);
	struct tls_call call;
	__u64 n = ret;

	if (!leave(&who, PT_REGS_SP(ctx), &call) || call.kind == CALL_HANDSHAKE || ret <= 0)
		return;
	/*
	 * A call that an inner probe took over may end at the outer one, while probes move: then its result is on a frame that
	 * is gone, and a length that was returned (more than 1) is the better answer.
	 */
	if (call.done && !(ret > 1 && PT_REGS_SP(ctx) != call.sp + sizeof(call.sp)) &&
	    bpf_probe_read_user(&n, sizeof(n), (void *)call.done)) {
		count(LOST_USER_FAULTS, 1);
		return;
	}
	if (!n || n > 0x7fffffff)
		return;
	tls_io(&call, n, call.kind == CALL_WRITE ? DIRECTION_EGRESS : DIRECTION_INGRESS);
	note_plain(&call, &who, n);
}

SEC("uretprobe/ssl")
int ssl_exit(struct pt_regs *ctx)
{
	hold_cpu();
	hit(ctx);
	on_return(ctx);
	release_cpu();
	return 0;
}

#define RECORD_HEAD_BYTES 5

/*
 * Whether the first bytes of a record are nobody else's: ciphertext, or a hello with its random. Other messages of the
 * handshake may be the same in every connection, and so is the "random" of a HelloRetryRequest (RFC 8446 section 4.1.3).
 */
static __always_inline bool is_unique(const __u8 *b)
{
	if (b[0] != 0x16)
		return true;
	return b[5] == 1 || (b[5] == 2 && !(b[11] == 0xcf && b[12] == 0x21 && b[13] == 0xad));
}

/*
 * BIO_write: a library that writes into memory, for its program to send later. The first record of each TLS call is
 * kept until a socket of the process sends the same bytes; ciphertext does not repeat. Bound streams cost a lookup.
 */
static __always_inline void on_bio_write(__u64 data, int length)
{
	struct caller who = this_thread();
	struct tls_call *call = innermost(&who);
	struct tls_key *owner, key = {.tgid = who.tgid};
	struct prefix *p, prefix = {.tgid = who.tgid};
	struct tls_stream *t;

	if (!call || call->wrote || length < PREFIX_BYTES)
		return;
	key.ssl = call->ssl;
	t = stream_of(&key);
	if (!t || t->sk || t->refused)
		return;
	if (bpf_probe_read_user(prefix.bytes, RECORD_HEAD_BYTES, (void *)data))
		return;
	if (!is_tls_record((union head *)prefix.bytes))
		return;
	if (bpf_probe_read_user(prefix.bytes, PREFIX_BYTES, (void *)data)) {
		count(LOST_USER_FAULTS, 1);
		return;
	}
	count(COUNT_BYTES_READ, PREFIX_BYTES);
	if (!is_unique(prefix.bytes))
		return;
	call->wrote = 1;
	p = &t->prefixes[t->written & (MAX_PREFIXES - 1)];
	if (t->written >= MAX_PREFIXES)
		bpf_map_delete_elem(&prefixes, p);
	*p = prefix;
	/* Past the first round the count only says which is the oldest. */
	t->written = t->written < 2 * MAX_PREFIXES - 1 ? t->written + 1 : MAX_PREFIXES;
	if (!bpf_map_update_elem(&prefixes, &prefix, &key, BPF_NOEXIST))
		return;
	owner = bpf_map_lookup_elem(&prefixes, &prefix);
	if (!owner)
		count(LOST_PREFIXES_FULL, 1);
	else if (owner->ssl != key.ssl)
		owner->ssl = 0; /* two wrote the same: it names nobody */
	return;
}

SEC("uprobe/bio_write")
int BPF_KPROBE(bio_write_enter, __u64 bio, __u64 data, int length)
{
	hold_cpu();
	hit(ctx);
	on_bio_write(data, length);
	release_cpu();
	return 0;
}

static __always_inline void on_free(__u64 ssl)
{
	struct tls_key key = {.ssl = ssl, .tgid = bpf_get_current_pid_tgid() >> 32};
	struct tls_stream *t = bpf_map_lookup_elem(&tls_streams, &key);

	if (!t)
		return;
	end_stream(&key, t);
}

SEC("uprobe/ssl_free")
int BPF_KPROBE(ssl_free_enter, __u64 ssl)
{
	hold_cpu();
	hit(ctx);
	on_free(ssl);
	release_cpu();
	return 0;
}

/*
 * At a place inside a function that is probed at its entry: does it see what the entry saw? A library's own code may pass
 * there too (BIO_f_ssl of OpenSSL does), on an object that is known.
 */
static __always_inline void on_check(__u32 slot, __u64 ssl, __u64 buf)
{
	struct caller who = this_thread();
	struct tls_call *call = innermost(&who);
	struct tls_key key = {.ssl = ssl, .tgid = who.tgid};
	struct site_check *check = bpf_map_lookup_elem(&site_checks, &slot);

	if (!check)
		return;
	if (call && (call->ssl != ssl || call->buf != buf))
		__sync_fetch_and_add(&check->disagree, 1);
	else if (call || bpf_map_lookup_elem(&tls_streams, &key))
		__sync_fetch_and_add(&check->agree, 1);
	/* Else it says nothing: a first read by BIO_f_ssl shakes hands by itself. */
}

SEC("uprobe/ssl_check")
int BPF_KPROBE(ssl_check, __u64 ssl, __u64 buf)
{
	hold_cpu();
	__u32 slot = hit(ctx);

	if (selected())
		on_check(slot, ssl, buf);
	release_cpu();
	return 0;
}

/* Does nothing: the floor of a probe's cost, for the benchmark. */
SEC("uprobe/empty")
int empty(struct pt_regs *ctx) { return 0; }

char LICENSE[] SEC("license") = "Dual BSD/GPL";
