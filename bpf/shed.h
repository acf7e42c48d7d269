/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Less is read where user space says that reading costs too much: without bodies, without responses, or of one connection
 * in some.
 */
#ifndef SPILE_SHED_H
#define SPILE_SHED_H

#define BRIEF_MESSAGE_BYTES 4096 /* of a message without its body: heads are longer in attacks only */
#define BRIEF_DATA_BYTES 16      /* of a DATA frame of HTTP/2 */

enum { SHED_BODIES = 1, SHED_RESPONSES = 2, SHED_SAMPLED = 4 };

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64); /* cgroup */
	__type(value, struct shed);
} sheds SEC(".maps");

/* Takes over what the policy says. A stream that is not to be read ends there for user space, and stays unread. */
static __noinline __attribute__((unused)) int obey(struct stream *s, struct policy *p)
{
	struct shed *shed = bpf_map_lookup_elem(&sheds, &s->cgroup), now = shed ? *shed : p->all;
	__u64 id = s->conn ? s->conn : s->id;

	s->policy = p->version;
	if (s->shed & SHED_SAMPLED)
		return 0;
	s->shed = now.flags & (SHED_BODIES | SHED_RESPONSES);
	/* An id holds the time in ns; Fibonacci's multiplier spreads it. */
	if (now.one_in > 1 && ((id >> 11) * 0x9e3779b97f4a7c15ULL >> 40) % now.one_in) {
		s->flags |= FLAG_SHED; /* what is open there is left out, not unanswered */
		emit_close(s);
		s->seq[0] = 0;
		s->seq[1] = 0;
		s->shed = SHED_SAMPLED;
		count(COUNT_SAMPLED_STREAMS, 1);
	}
	return 0;
}

static __always_inline void follow_policy(struct stream *s)
{
	struct policy *p = news(POLICY_SHED, s->policy);

	if (p)
		obey(s, p);
}

/* Whether bytes of this direction are responses, as far as is known. */
static __always_inline bool is_response(const struct stream *s, __u32 d)
{
	return s->frames.state == FRAMES_NONE ? s->response == d + 1 : (s->frames.direction & 1) != d;
}

/* Bytes of a connection that is not read: only that they passed. */
static __always_inline int pass_by(struct stream *s, __u32 d, __u32 length)
{
	count(COUNT_SAMPLED_BYTES, length);
	count(COUNT_SAMPLED_HEADS, s->begun[d]);
	lose(s->cgroup, LOSS_SAMPLED, length, s->begun[d]);
	s->begun[d] = 0;
	s->offset[d] += length;
	return 0;
}

#endif
