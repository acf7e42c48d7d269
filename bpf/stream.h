/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What the kernel remembers: connections by socket and TLS streams by (process, SSL *). All tables are preallocated
 * and bounded; a full one is counted, never evicted from.
 */
#ifndef SPILE_STREAM_H
#define SPILE_STREAM_H

#define MAX_FRAMES 160 /* heads of one call; nginx allows 128 requests at once, and verification takes time */

enum frames_state { FRAMES_NONE = 0, FRAMES_FOLLOWED = 1, FRAMES_LOST = 2 };

/* Where an HTTP/2 client stands in its frames (frames.h). */
struct frames {
	__u32 left;     /* bytes of the current frame's payload to come, or of the preface */
	__u32 last;     /* highest id of a request; 0 = none yet */
	__u8 head[24];  /* of a frame, as far as it has come: 9 bytes, and room for what the verifier takes for possible */
	__u8 have;      /* bytes in it */
	__u8 state;     /* enum frames_state */
	__u8 direction; /* of the client's bytes */
	__u8 missed;    /* requests may have passed unseen: the next id tells */
};

/* Two directions of plain bytes. Indices are enum event_direction. */
struct stream {
	__u64 id;
	__u64 conn;
	__u64 conn_birth;
	__u64 cgroup;
	__u64 start;
	__u64 offset[2];
	__u32 seq[2];
	__u32 heads[2];
	__u32 begun[2]; /* heads in the call at hand; its first piece tells */
	__u32 taken[2]; /* bytes captured of the HTTP/1 message at hand */
	__u32 tgid;
	__u32 tid;
	__u32 netns;
	__u16 local_port;
	__u16 remote_port;
	__u8 local[16];
	__u8 remote[16];
	__u8 comm[16];
	__u8 layer;
	__u8 flags; /* FLAG_FRESH, FLAG_UNBOUND */
	__u8 muted;
	__u8 capped; /* bit per direction: a message of HTTP/1 began there, so its bytes are capped */
	struct frames frames;
	__u32 policy;  /* version of the policy that it obeys */
	__u32 mutes;   /* version of the list of mutes that it has looked into */
	__u8 shed;     /* what that says: SHED_... */
	__u8 response; /* direction of the responses of HTTP/1, plus 1; 0 = not known */
	__u8 pad[6];
};

/* An object of a TLS library: an SSL *, a gnutls_session_t, a *tls.Conn of Go. */
struct tls_key {
	__u64 ssl;
	__u32 tgid;
	__u32 pad;
};

enum conn_state {
	CONN_UNKNOWN = 0, /* nothing decided yet */
	CONN_HTTP = 1,    /* plain HTTP: captured */
	CONN_TLS = 2,     /* ciphertext: never read */
	CONN_MUTED = 3,   /* something else: never read */
};

struct conn {
	struct stream plain;
	struct tls_key tls; /* the stream inside, from its binding to its end */
	__u64 uncovered;    /* ciphertext bytes that no TLS call explained */
	__u64 pending;      /* ciphertext bytes that count as decoded when plain bytes of the stream inside come */
	__u64 idle;         /* ciphertext bytes since plain bytes of the stream inside last came */
	__u64 slack;        /* of those that may pass before they are taken for undecoded */
	__u32 next_seq[2];  /* TCP sequence number after the last byte seen, per direction */
	__u32 sniffed;      /* buffers looked at while CONN_UNKNOWN */
	__u32 sniffed_bytes;
	__u8 state;         /* enum conn_state */
	__u8 fresh;         /* seen from ESTABLISHED */
	__u8 tracked;       /* bit per direction: next_seq is valid */
	__u8 ended;         /* TCP_CLOSE was seen; the socket may live on */
	__u8 covered;       /* plain bytes of the stream inside came */
	__u8 pad[3];
};

#define PREFIX_BYTES 32
#define MAX_PREFIXES 4 /* a power of two */

/* The first bytes of a TLS record that a library wrote into memory. */
struct prefix {
	__u8 bytes[PREFIX_BYTES];
	__u32 tgid;
	__u32 pad;
};

struct tls_stream {
	struct stream plain;
	__u64 sk;       /* the socket it is bound to; 0 = none */
	struct prefix prefixes[MAX_PREFIXES]; /* of records on their way to a socket, while there is none */
	__u64 seen;     /* when plain bytes last came, or it was made; ns since boot */
	__u64 guess;    /* the socket that lengths speak for, while there is none */
	__u8 votes;     /* lengths that did; 255 = they contradicted each other, and are not asked again */
	__u8 written;   /* prefixes so far */
	__u8 handshake; /* created by a handshake call: no plain byte moved before */
	__u8 refused;   /* its socket is outside the selection */
	__u8 pad[4];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, __u64); /* struct sock * */
	__type(value, struct conn);
} conns SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 32768);
	__type(key, struct tls_key);
	__type(value, struct tls_stream);
} tls_streams SEC(".maps");

/* What a kprobe keeps until its kretprobe. */
struct pending {
	__u64 sk;
	__u64 time;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64); /* tgid << 32 | tid */
	__type(value, struct pending);
} pendings SEC(".maps");

/* Streams that user space gave up; an entry moves into the stream at its next byte. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64); /* stream id */
	__type(value, __u8);
} mutes SEC(".maps");

/* Which TLS stream wrote a record that no socket has sent yet. An entry lives as long as its stream keeps it. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 32768);
	__type(key, struct prefix);
	__type(value, struct tls_key);
} prefixes SEC(".maps");

/* Sources of new entries: too large for the 512 bytes of stack. */
static const struct conn no_conn;
static const struct tls_stream no_stream;

/*
 * Unique without an atomic that returns its result (those need 5.12): one CPU cannot pass here twice in a
 * nanosecond, and the layer keeps a connection's plain stream apart from its TLS stream.
 */
static __always_inline __u64 new_id(__u8 layer)
{
	__u64 cpu = bpf_get_smp_processor_id() & 0x3ff;

	return bpf_ktime_get_boot_ns() << 11 | cpu << 1 | (layer == LAYER_TLS);
}

/* The stream of an SSL object, made at need. */
static __always_inline struct tls_stream *stream_of(struct tls_key *key)
{
	struct tls_stream *t = bpf_map_lookup_elem(&tls_streams, key);

	if (t)
		return t;
	if (bpf_map_update_elem(&tls_streams, key, &no_stream, BPF_NOEXIST)) {
		t = bpf_map_lookup_elem(&tls_streams, key);
		if (!t)
			count(LOST_STREAMS_FULL, 1);
		return t; /* another processor was faster: Go reads and writes at once */
	}
	t = bpf_map_lookup_elem(&tls_streams, key);
	if (t) {
		t->seen = bpf_ktime_get_boot_ns();
		t->plain.id = new_id(LAYER_TLS);
		t->plain.layer = LAYER_TLS;
		t->plain.flags = FLAG_UNBOUND;
	}
	return t;
}

/* What was to find the stream's socket. Absent entries cost less than to tell them apart: the verifier counts branches. */
static __always_inline void forget_prefixes(struct tls_stream *t)
{
	if (!t->written)
		return;
	for (__u32 i = 0; i < MAX_PREFIXES; i++)
		bpf_map_delete_elem(&prefixes, &t->prefixes[i]);
	t->written = 0;
}

/* Forgets a TLS stream: its socket has none then. */
static __noinline __attribute__((unused)) int drop_stream(struct tls_key *key, struct tls_stream *t)
{
	__u64 sk = t->sk;
	struct conn *c = sk ? bpf_map_lookup_elem(&conns, &sk) : NULL;

	if (c && c->tls.ssl == key->ssl && c->tls.tgid == key->tgid)
		c->tls.ssl = 0;
	forget_prefixes(t);
	bpf_map_delete_elem(&tls_streams, key);
	return 0;
}

/* Writes the current task into the stream as its owner. */
static __always_inline void own(struct stream *s, struct task_struct *task, __u64 pid_tgid)
{
	__u32 tgid = pid_tgid >> 32;

	s->tid = (__u32)pid_tgid;
	if (s->tgid == tgid)
		return;
	s->tgid = tgid;
	s->start = BPF_CORE_READ(task, group_leader, start_boottime);
	s->cgroup = bpf_get_current_cgroup_id();
	if (!s->netns)
		s->netns = BPF_CORE_READ(task, nsproxy, net_ns, ns.inum);
	bpf_get_current_comm(s->comm, sizeof(s->comm));
}

/* Whether user space has given the stream up. */
static __always_inline bool muted(struct stream *s)
{
	struct policy *p = news(POLICY_MUTES, s->mutes);

	if (p) {
		s->mutes = p->version;
		if (bpf_map_lookup_elem(&mutes, &s->id)) {
			s->muted = 1;
			bpf_map_delete_elem(&mutes, &s->id);
		}
	}
	return s->muted;
}

#endif
