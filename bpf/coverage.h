/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * How much of a process's TLS is decoded, in bytes that its sockets moved. A connection counts as decoded from the
 * first read or write of its TLS library that is seen; what it moved before (the handshake) is credited then, if the
 * stream inside was seen from its first byte. User space reads the table and removes processes that have ended.
 */
#ifndef SPILE_COVERAGE_H
#define SPILE_COVERAGE_H

struct process_id {
	__u64 start; /* ns since boot; a tgid alone comes back */
	__u32 tgid;
	__u32 pad;
};

struct coverage {
	__u64 cgroup;
	__u64 tls;     /* bytes of TLS records in sockets */
	__u64 decoded; /* of those, on connections whose plain bytes are read */
	__u64 unbound; /* plain bytes of TLS streams whose socket is unknown */
	__u64 quic;    /* bytes of UDP sockets that speak QUIC */
	__u8 ktls;     /* the kernel encrypts for it */
	__u8 ended;    /* no process has this entry any more */
	__u8 pad[6];
	__u8 comm[16]; /* of the process when it was first seen: it may be gone before anybody looks */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, struct process_id);
	__type(value, struct coverage);
} coverages SEC(".maps");

static const struct coverage no_coverage;

/* The entry of a process, made at need. */
static __noinline __attribute__((unused)) struct coverage *coverage_at(struct process_id *id, __u64 cgroup)
{
	struct coverage *c = bpf_map_lookup_elem(&coverages, id);

	if (c)
		return c;
	/* Where it fails, another processor may have been faster. */
	bpf_map_update_elem(&coverages, id, &no_coverage, BPF_NOEXIST);
	c = bpf_map_lookup_elem(&coverages, id);
	if (!c) {
		count(LOST_COVERAGE_FULL, 1);
		return NULL;
	}
	c->cgroup = cgroup;
	bpf_get_current_comm(c->comm, sizeof(c->comm));
	return c;
}

/* The entry of the process that owns the stream. */
static __always_inline struct coverage *coverage_of(const struct stream *s)
{
	struct process_id id = {.start = s->start, .tgid = s->tgid};

	return coverage_at(&id, s->cgroup);
}

#endif
