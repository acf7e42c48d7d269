//go:build ignore

/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Bytes of TCP sockets, with the process that moves them. Four rungs call one handler, sock_io:
 *   tp_btf   sock_send_length, sock_recv_length (6.3): after the call, socket and length given
 *   fexit    tcp_sendmsg, tcp_recvmsg, tcp_sendpage: after the function
 *   kprobe   tcp_sendmsg, tcp_recvmsg, tcp_sendpage and their returns
 *   syscall  raw sys_exit, from the descriptor to the socket by hand: any kernel with BTF
 * User space loads one of them, and always sock_state and sock_destroy, which bound the life of a connection.
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
#include "emit.h"
#include "http.h"
#include "frames.h"
#include "conn.h"
#include "bind.h"
#include "votes.h"
#include "sealed.h"
#include "userbuf.h"
#include "quic.h"

/* A socket that was seen from its start shows HTTP at once; a late one may be in the middle of a long body. */
#define SNIFF_BUFFERS_FRESH 8
#define SNIFF_BUFFERS_LATE 256
#define SNIFF_TOTAL_FRESH (64 << 10)
#define SNIFF_TOTAL_LATE (4 << 20)

/* Decides what an undecided socket carries. */
static __always_inline void classify(struct conn *c, const union head *head, bool in_tls_call, __u32 n)
{
	if (is_tls_record(head)) {
		c->state = CONN_TLS;
		return;
	}
	/* Plain bytes under a TLS call: kernel TLS; the library's side shows them. */
	if (!in_tls_call && (is_preface(head) || is_http_head(head))) {
		c->state = CONN_HTTP;
		if (c->fresh && !c->plain.offset[0] && !c->plain.offset[1])
			c->plain.flags |= FLAG_FRESH;
		return;
	}
	c->sniffed++;
	c->sniffed_bytes += n;
	if (c->sniffed >= (c->fresh ? SNIFF_BUFFERS_FRESH : SNIFF_BUFFERS_LATE) ||
	    c->sniffed_bytes >= (c->fresh ? SNIFF_TOTAL_FRESH : SNIFF_TOTAL_LATE))
		c->state = CONN_MUTED;
}

/* Plain bytes under a TLS call: the kernel may encrypt (tls(7)); then its upper layer protocol is called "tls". */
static __noinline int note_ktls(struct conn *c, struct sock *sk)
{
	struct inet_connection_sock *icsk = (struct inet_connection_sock *)sk;
	struct coverage *v;
	char name[4] = {};

	BPF_CORE_READ_INTO(&name, icsk, icsk_ulp_ops, name);
	if (name[0] != 't' || name[1] != 'l' || name[2] != 's' || name[3])
		return 0;
	v = coverage_of(&c->plain);
	if (v)
		v->ktls = 1;
	return 0;
}

/* One call of the current task moved ret bytes of a TCP socket. It ended at `time`, or now if that is 0. */
static __noinline int sock_io(struct sock *sk, struct pt_regs *regs, int ret, __u8 direction, __u64 time)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid(), key = (__u64)sk;
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct io io = {.time = time, .length = ret, .direction = direction};
	union head head;
	struct caller who;
	struct tls_call *call;
	struct conn *c;

	if (ret <= 0 || !select_task(task, pid_tgid >> 32))
		return 0;
	call = current_call(regs, &who);
	c = bpf_map_lookup_elem(&conns, &key);
	if (!c) {
		if (!select_sock(sk)) {
			struct tls_key tls = {.tgid = who.tgid};

			if (call) {
				tls.ssl = call->ssl;
				refuse(&tls, sk);
			}
			return 0;
		}
		if (BPF_CORE_READ(sk, __sk_common.skc_state) == TCP_CLOSE) /* its end was told, or is about to be */
			return 0;
		c = new_conn(sk, false);
		if (!c)
			return 0;
	}
	own(&c->plain, task, pid_tgid);
	if (c->state == CONN_TLS) {
		/* Its buffer matters only where it may tell which stream it belongs to. */
		if (direction == DIRECTION_EGRESS && !c->tls.ssl)
			find_buffer(task, regs, &io);
		goto sealed;
	}
	if (!find_buffer(task, regs, &io))
		return 0;
	skip_unseen(c, sk, direction, ret);
	if (c->state != CONN_HTTP || call) {
		if (c->state == CONN_MUTED && !call)
			goto muted;
		sniff(&io, &head);
		if (call && call->kind == CALL_GO_WRITE && !call->sent && !is_tls_record(&head)) {
			give_up(&who, call->ssl);
			call = NULL;
		}
		if (c->state == CONN_HTTP && is_tls_record(&head)) /* CONNECT, then TLS */
			c->state = CONN_TLS;
		else if (c->state != CONN_HTTP)
			classify(c, &head, call != NULL, ret);
		if (c->state == CONN_TLS)
			goto sealed;
		if (c->state != CONN_HTTP) {
			if (call)
				note_ktls(c, sk);
			c->plain.offset[direction & 1] += ret;
			count(COUNT_UNCLASSIFIED_BYTES, ret);
			return 0;
		}
	} else if (muted(&c->plain)) {
		goto muted;
	} else {
		sniff(&io, &head);
	}
	if (!io.time)
		io.time = bpf_ktime_get_boot_ns();
	look(&c->plain, &io, &head);
	return emit(&c->plain, &io);
sealed:
	return tls_bytes(c, call, &who, sk, &io);
muted:
	c->plain.offset[direction & 1] += ret;
	count(COUNT_MUTED_BYTES, ret);
	return 0;
}

static __always_inline struct pt_regs *current_regs(void)
{
	return user_regs((struct task_struct *)bpf_get_current_task());
}

/* Not TCP: QUIC is named, MPTCP counted. */
static __always_inline int other_io(struct sock *sk, int ret, __u8 direction)
{
	if (is_inet(sk, IPPROTO_UDP))
		return udp_io(sk, current_regs(), ret, direction);
	if (is_inet(sk, IPPROTO_MPTCP) && select_sock(sk) &&
	    select_task((struct task_struct *)bpf_get_current_task(), bpf_get_current_pid_tgid() >> 32))
		count(LOST_MPTCP_BYTES, ret);
	return 0;
}

/* Of a socket that the kernel hands over with its type: plain loads instead of calls. */
static __always_inline bool is_tcp(const struct sock *sk)
{
	__u16 family = sk->__sk_common.skc_family;

	return (family == AF_INET || family == AF_INET6) && sk->sk_protocol == IPPROTO_TCP;
}

SEC("tp_btf/sock_send_length")
int BPF_PROG(sock_send, struct sock *sk, int ret, int flags)
{
	if (ret <= 0)
		return 0;
	if (!is_tcp(sk))
		return other_io(sk, ret, DIRECTION_EGRESS);
	return sock_io(sk, current_regs(), ret, DIRECTION_EGRESS, 0);
}

SEC("tp_btf/sock_recv_length")
int BPF_PROG(sock_recv, struct sock *sk, int ret, int flags)
{
	if (ret <= 0 || flags & (MSG_PEEK | MSG_ERRQUEUE))
		return 0;
	if (!is_tcp(sk))
		return other_io(sk, ret, DIRECTION_INGRESS);
	return sock_io(sk, current_regs(), ret, DIRECTION_INGRESS, 0);
}

SEC("fexit/tcp_sendmsg")
int BPF_PROG(tcp_sendmsg_fexit, struct sock *sk, void *msg, __u64 size, int ret)
{
	return is_tcp(sk) ? sock_io(sk, current_regs(), ret, DIRECTION_EGRESS, 0) : 0;
}

/* tcp_recvmsg has lost arguments: nonblock in 5.19, addr_len in 7.x. User space loads the program that fits. */
static __always_inline int received(struct sock *sk, __u64 flags, int ret)
{
	if (flags & (MSG_PEEK | MSG_ERRQUEUE) || !is_tcp(sk))
		return 0;
	return sock_io(sk, current_regs(), ret, DIRECTION_INGRESS, 0);
}

SEC("fexit/tcp_recvmsg")
int BPF_PROG(tcp_recvmsg6_fexit, struct sock *sk, void *msg, __u64 size, int nonblock, int flags, void *length, int ret)
{
	return received(sk, flags, ret);
}

SEC("fexit/tcp_recvmsg")
int BPF_PROG(tcp_recvmsg5_fexit, struct sock *sk, void *msg, __u64 size, int flags, void *length, int ret)
{
	return received(sk, flags, ret);
}

SEC("fexit/tcp_recvmsg")
int BPF_PROG(tcp_recvmsg4_fexit, struct sock *sk, void *msg, __u64 size, int flags, int ret)
{
	return received(sk, flags, ret);
}

/* sendfile and splice to a socket before 6.5. */
SEC("fexit/tcp_sendpage")
int BPF_PROG(tcp_sendpage_fexit, struct sock *sk, void *page, int offset, __u64 size, int flags, int ret)
{
	return is_tcp(sk) ? sock_io(sk, current_regs(), ret, DIRECTION_EGRESS, 0) : 0;
}

static __always_inline int remember(struct sock *sk)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	struct pending p = {.sk = (__u64)sk, .time = bpf_ktime_get_boot_ns()};

	/* One that is still there has returned, unseen. */
	if (bpf_map_lookup_elem(&pendings, &pid_tgid) &&
	    select_task((struct task_struct *)bpf_get_current_task(), pid_tgid >> 32))
		count(LOST_RETURNS, 1);
	if (bpf_map_update_elem(&pendings, &pid_tgid, &p, BPF_ANY))
		count(LOST_CALLS_FULL, 1);
	return 0;
}

static __always_inline int recall(int ret, __u8 direction)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	struct pending *p = bpf_map_lookup_elem(&pendings, &pid_tgid), copy;

	if (!p)
		return 0;
	copy = *p;
	bpf_map_delete_elem(&pendings, &pid_tgid);
	if (direction == DIRECTION_INGRESS)
		copy.time = 0;
	if (ret <= 0 || !is_inet((struct sock *)copy.sk, IPPROTO_TCP))
		return 0;
	return sock_io((struct sock *)copy.sk, current_regs(), ret, direction, copy.time);
}

SEC("kprobe/tcp_sendmsg")
int BPF_KPROBE(tcp_sendmsg_enter, struct sock *sk) { return remember(sk); }

SEC("kretprobe/tcp_sendmsg")
int BPF_KRETPROBE(tcp_sendmsg_exit, int ret) { return recall(ret, DIRECTION_EGRESS); }

SEC("kprobe/tcp_recvmsg")
int BPF_KPROBE(tcp_recvmsg_enter, struct sock *sk) { return remember(sk); }

SEC("kretprobe/tcp_recvmsg")
int BPF_KRETPROBE(tcp_recvmsg_exit, int ret) { return recall(ret, DIRECTION_INGRESS); }

SEC("kprobe/tcp_sendpage")
int BPF_KPROBE(tcp_sendpage_enter, struct sock *sk) { return remember(sk); }

SEC("kretprobe/tcp_sendpage")
int BPF_KRETPROBE(tcp_sendpage_exit, int ret) { return recall(ret, DIRECTION_EGRESS); }

static __always_inline struct sock *sock_of(struct task_struct *task, __u32 fd)
{
	struct fdtable *table = BPF_CORE_READ(task, files, fdt);
	struct file **slots = BPF_CORE_READ(table, fd), *file = NULL;
	struct socket *socket;

	if (fd >= BPF_CORE_READ(table, max_fds))
		return NULL;
	bpf_probe_read_kernel(&file, sizeof(file), slots + fd);
	if (!file || (BPF_CORE_READ(file, f_inode, i_mode) & S_IFMT) != S_IFSOCK)
		return NULL;
	socket = BPF_CORE_READ(file, private_data);
	return BPF_CORE_READ(socket, sk);
}

SEC("raw_tp/sys_exit")
int sys_exit(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct pt_regs *regs = (struct pt_regs *)ctx->args[0];
	__s64 ret = ctx->args[1];
	struct syscall call;
	struct sock *sk;
	__u8 direction;

	if (ret <= 0 || is_compat(task))
		return 0;
	read_syscall(regs, &call);
	if (call.nr == NR_WRITE || call.nr == NR_SENDTO || call.nr == NR_WRITEV || call.nr == NR_SENDMSG ||
	    call.nr == NR_SENDFILE)
		direction = DIRECTION_EGRESS;
	else if (call.nr == NR_READ || call.nr == NR_RECVFROM || call.nr == NR_READV || call.nr == NR_RECVMSG)
		direction = DIRECTION_INGRESS;
	else
		return 0;
	sk = sock_of(task, call.args[0]);
	if (!sk || !is_inet(sk, IPPROTO_TCP))
		return 0;
	return sock_io(sk, regs, ret, direction, 0);
}

/* A connection is known from ESTABLISHED where its namespace and ports may match; the process is not known yet. */
SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(sock_state, struct sock *sk, int old, int new)
{
	__u64 key = (__u64)sk;
	struct conn *c;

	if ((new != TCP_ESTABLISHED && new != TCP_CLOSE) || !is_inet(sk, IPPROTO_TCP))
		return 0;
	c = bpf_map_lookup_elem(&conns, &key);
	if (new == TCP_CLOSE) {
		if (c) /* bytes may still wait to be read: the end is sock_destroy */
			c->ended = 1;
		return 0;
	}
	if (c && !c->ended) /* it sent in the SYN: TCP fast open */
		return 0;
	if (c) /* disconnected and connected anew */
		end_conn(sk, c);
	if (select_sock(sk))
		new_conn(sk, true);
	return 0;
}

SEC("tp_btf/tcp_destroy_sock")
int BPF_PROG(sock_destroy, struct sock *sk)
{
	__u64 key = (__u64)sk;
	struct conn *c = bpf_map_lookup_elem(&conns, &key);

	if (c)
		end_conn(sk, c);
	return 0;
}

/* Connections that are older than the hooks: known from here on, with what TCP has counted so far. */
SEC("iter/task_file")
int list_sockets(struct bpf_iter__task_file *ctx)
{
	struct file *file = ctx->file;
	struct socket *socket;
	struct sock *sk;
	struct conn *c;
	__u8 state;

	if (!ctx->task || !file || (BPF_CORE_READ(file, f_inode, i_mode) & S_IFMT) != S_IFSOCK)
		return 0;
	socket = BPF_CORE_READ(file, private_data);
	sk = BPF_CORE_READ(socket, sk);
	if (!sk || !is_inet(sk, IPPROTO_TCP) || !select_sock(sk))
		return 0;
	state = BPF_CORE_READ(sk, __sk_common.skc_state);
	if (state != TCP_ESTABLISHED && state != TCP_CLOSE_WAIT)
		return 0;
	__u64 key = (__u64)sk;

	if (bpf_map_lookup_elem(&conns, &key)) /* shared by processes, or moved bytes meanwhile */
		return 0;
	c = new_conn(sk, false);
	if (c) {
		track(sk, c);
		count(COUNT_OLD_CONNS, 1);
	}
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
