/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * One counter for each way of skipping or losing something. User space takes the names from BTF:
 * LOST_ means that bytes or events of the selection are missing, COUNT_ is a plain fact.
 */
#ifndef SPILE_COUNT_H
#define SPILE_COUNT_H

enum count {
	COUNT_EVENTS,             /* events handed to the data ring */
	COUNT_BYTES_READ,         /* bytes of user payload copied, first bytes for classification included */
	COUNT_SKIPPED_SELF,       /* calls of the agent itself */
	COUNT_SKIPPED_NETNS,      /* calls outside the selection, by the rule that refused them */
	COUNT_SKIPPED_CGROUP,
	COUNT_SKIPPED_EXE,
	COUNT_SKIPPED_PID,
	COUNT_SKIPPED_PORT,
	COUNT_UNDECIDED_EXE,      /* calls of a program without a verdict yet: not read */
	COUNT_UNDECIDED_PORT,     /* TLS calls whose socket is unknown while port rules exist: not read */
	COUNT_UNBOUND_EVENTS,     /* events of TLS streams whose socket is unknown */
	COUNT_UNCLASSIFIED_BYTES, /* of plain sockets that have not shown HTTP: not read beyond the first bytes */
	COUNT_MUTED_BYTES,        /* of streams that user space or the classifier gave up */
	COUNT_TLS_BYTES,          /* ciphertext of selected sockets */
	COUNT_UNCOVERED_BYTES,    /* the part of it that was not decoded when it passed; a handshake may be credited later */
	COUNT_BOUND_BY_PREFIX,    /* TLS streams whose socket was found by the bytes that it sent */
	COUNT_BOUND_BY_LENGTH,    /* TLS streams whose socket was found by the lengths of what it moved */
	COUNT_OLD_CONNS,          /* connections that were open when the hooks came */
	COUNT_QUIC_BYTES,         /* of selected UDP sockets that speak QUIC */
	COUNT_BRIEF_BODIES,       /* reads and writes that were cut because the bodies of their cgroup were over budget */
	COUNT_SHED_BYTES,         /* of responses that the policy does not let be read */
	COUNT_SHED_HEADS,         /* heads of messages in them */
	COUNT_SAMPLED_STREAMS,    /* that are not read, because one in some is */
	COUNT_SAMPLED_BYTES,      /* that they moved */
	COUNT_SAMPLED_HEADS,      /* heads of messages in them */
	LOST_RING_FULL,           /* events */
	LOST_RING_FULL_BYTES,     /* bytes they stood for */
	LOST_RING_FULL_HEADS,     /* heads of HTTP messages in them */
	LOST_CONTROL_RING_FULL,   /* CLOSE, EXEC and EXIT events */
	LOST_CONNS_FULL,          /* calls on a socket that had no room in the connection table */
	LOST_STREAMS_FULL,        /* TLS calls without room in the stream table */
	LOST_CALLS_FULL,          /* TLS calls of threads without room in the call table */
	LOST_CALLS_NESTED,        /* TLS calls nested deeper than is kept */
	LOST_CALLS_ABANDONED,     /* TLS calls that a longjmp or a fiber ended, or hid */
	LOST_CALLS_KILLED,        /* TLS writes that had sent when their thread ended: a call, its bytes unknown */
	LOST_ORPHAN_RETURNS,      /* returns of TLS calls whose entry was not kept */
	LOST_COVERAGE_FULL,       /* bytes of processes without room in the table of coverage, by number of calls */
	LOST_MPTCP_BYTES,         /* of Multipath TCP sockets (RFC 8684): not looked at */
	LOST_MEMORY_FULL,         /* bytes of threads without room in the table of memory BIOs, by number of calls */
	LOST_PREFIXES_FULL,       /* records written into memory without room in their table: their streams stay unbound */
	LOST_PIDS_FULL,           /* children of a selected process without room in the table of processes */
	LOST_USER_FAULTS,         /* reads of user memory that failed */
	LOST_USER_FAULT_BYTES,
	LOST_BUDGET_CALLS,        /* reads and writes that the budget of their cgroup did not cover */
	LOST_BUDGET_BYTES,        /* bytes that they moved */
	LOST_BUDGET_HEADS,        /* heads of messages in them */
	LOST_PRESSURE_CALLS,      /* reads and writes beyond the share of their cgroup, while the ring was nearly full */
	LOST_PRESSURE_BYTES,
	LOST_PRESSURE_HEADS,
	LOST_BUDGETS_FULL,        /* reads and writes of cgroups without room in the table of budgets: not limited */
	LOST_RETURNS,             /* returns of socket calls that a kretprobe missed: bytes without a buffer */
	LOST_FRAMES,              /* times the frames of an HTTP/2 client were lost: requests since then show by the next id */
	LOST_TRUNCATED_BYTES,     /* beyond the cap of a call or of a message */
	LOST_UNSEEN_BYTES,        /* moved by a way that shows no buffer */
	COUNT_MAX,
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNT_MAX);
	__type(key, enum count);
	__type(value, __u64);
} counts SEC(".maps");

/* Atomic although per CPU: a uprobe may be preempted between load and store (kernels >= 5.17). */
static __always_inline void count(enum count which, __u64 n)
{
	__u32 key = which;
	__u64 *value = bpf_map_lookup_elem(&counts, &key);

	if (value)
		__sync_fetch_and_add(value, n);
}

#endif
