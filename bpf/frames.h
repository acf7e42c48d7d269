/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Follows the frames of an HTTP/2 client, so that its requests are counted whether or not the ring had room. From each
 * frame 9 bytes are read, of payloads nothing. Where a stream does not start like HTTP/2 it costs one branch.
 *
 *	none ──preface, or a request's HEADERS on a late stream──▶ followed ──not a frame, not readable──▶ lost
 *	                                                              ▲────a buffer begins like a frame────┘
 *
 * A request opens a stream with an id above all before it (RFC 9113 section 5.1.1). Clients number them 1, 3, 5, ...:
 * after a loss the next id tells how many were missed.
 */
#ifndef SPILE_FRAMES_H
#define SPILE_FRAMES_H

#define PREFACE_BYTES 24
#define FRAME_HEAD_BYTES 9
#define MAX_FRAME (1 << 20) /* far above what any stack writes */

enum { FRAME_DATA, FRAME_HEADERS, FRAME_PRIORITY, FRAME_RESET, FRAME_SETTINGS, FRAME_PUSH, FRAME_PING, FRAME_GOAWAY, FRAME_WINDOW, FRAME_CONTINUATION };
enum { FRAME_FLAG_PADDED = 8, FRAME_FLAG_PRIORITY = 0x20 };

static __always_inline __u32 frame_length(const __u8 *b) { return (__u32)b[0] << 16 | (__u32)b[1] << 8 | b[2]; }
static __always_inline __u32 frame_id(const __u8 *b) { return (__u32)b[5] << 24 | (__u32)b[6] << 16 | (__u32)b[7] << 8 | b[8]; }

/* Whether a client may send such a frame (RFC 9113 section 6). strict refuses kinds that are unknown, too. */
static __noinline bool is_frame(const __u8 *b, bool strict)
{
	__u32 length = frame_length(b), id = frame_id(b);

	if (length > MAX_FRAME || id >> 31)
		return false;
	if (b[3] == FRAME_DATA || b[3] == FRAME_CONTINUATION)
		return id & 1;
	if (b[3] == FRAME_HEADERS)
		return (id & 1) && length;
	if (b[3] == FRAME_PRIORITY)
		return id && length == 5;
	if (b[3] == FRAME_RESET)
		return id && length == 4;
	if (b[3] == FRAME_SETTINGS)
		return !id && length % 6 == 0;
	if (b[3] == FRAME_PING)
		return !id && length == 8;
	if (b[3] == FRAME_GOAWAY)
		return !id && length >= 8;
	if (b[3] == FRAME_WINDOW)
		return length == 4;
	return b[3] != FRAME_PUSH && !strict;
}

/* Whether a buffer begins with the HEADERS of a request: the first field of its block is :method. */
static __always_inline bool is_request_frame(const union head *head)
{
	const __u8 *b = head->byte;
	__u8 at = FRAME_HEAD_BYTES;

	if (b[3] != FRAME_HEADERS || (b[4] & ~0x2d) || !is_frame(b, true))
		return false;
	if (b[4] & FRAME_FLAG_PADDED)
		at++;
	if (b[4] & FRAME_FLAG_PRIORITY)
		at += 5;
	__u8 field = b[at & 15];

	if ((field & 0xe0) == 0x20) { /* the encoder follows a new table size first (RFC 7541 section 6.3) */
		for (int i = 0; field == 0x3f && i < 3; i++)
			if (!(b[++at & 15] & 0x80))
				break;
		field = b[++at & 15];
	}
	/* RFC 7541 section 6: indexed GET and POST, or a literal with the name of entry 2. */
	return field == 0x82 || field == 0x83 || field == 0x42 || field == 0x02 || field == 0x12;
}

static __always_inline bool is_followed(const struct stream *s, __u8 direction)
{
	return s->frames.state == FRAMES_FOLLOWED && s->frames.direction == direction;
}

static __always_inline void lose_frames(struct frames *f)
{
	f->state = FRAMES_LOST;
	f->left = 0;
	f->have = 0;
	f->missed = 1;
	count(LOST_FRAMES, 1);
}

/* Bytes passed that nobody can read. */
static __always_inline void skip_frames(struct stream *s, __u8 direction, __u32 n)
{
	if (!n || !is_followed(s, direction))
		return;
	if (s->frames.have || n > s->frames.left)
		lose_frames(&s->frames);
	else
		s->frames.left -= n;
}

/*
 * Takes a head that is complete. What follows a frame is one, so only what cannot be is refused: each branch here is
 * one that the verifier takes MAX_FRAMES times.
 */
static __always_inline bool take_frame(struct stream *s)
{
	struct frames *f = &s->frames;
	__u32 id = frame_id(f->head), length = frame_length(f->head);

	f->have = 0;
	if (length > MAX_FRAME || id >> 31)
		return false;
	f->left = length;
	if (f->head[3] == FRAME_HEADERS && id > f->last) { /* else: trailers */
		s->begun[f->direction & 1] += 1 + f->missed * ((id - f->last - 1) / 2);
		f->missed = 0;
		f->last = id;
	}
	return true;
}

/* Steps over the rest of a frame, then over the next head. False where it cannot be read, or is none. */
static __always_inline bool step(struct stream *s, struct cursor *at)
{
	struct frames *f = &s->frames;
	__u32 n = at->left < at->len ? at->left : at->len, take = FRAME_HEAD_BYTES - (f->have & 15);
	__u32 skip = n < f->left ? n : f->left;

	f->left -= skip;
	n -= skip;
	take = take < n ? take : n;
	asm volatile("" : "+r"(take));
	if (take > FRAME_HEAD_BYTES || bpf_probe_read_user(f->head + (f->have & 15), take, (void *)(at->base + skip)))
		return false;
	f->have += take;
	skip += take;
	at->base += skip;
	at->len -= skip;
	at->left -= skip;
	return f->have < FRAME_HEAD_BYTES || take_frame(s);
}

/* Follows the frames in the bytes of one call; stream.begun tells how many requests they begin. */
static __noinline int follow(struct stream *s, struct io *io)
{
	struct cursor at = {.left = io->length};

	if (io->flags & FLAG_UNSEEN) {
		skip_frames(s, io->direction, io->length);
		return 0;
	}
	if (!io->iovs) {
		at.base = io->buf;
		at.len = io->length;
	}
	for (int i = 0; i < MAX_FRAMES; i++) {
		bpf_probe_read_kernel(&at, sizeof(at), &at); /* see emit */
		if (!at.left)
			return 0;
		if (!at.len && !read_buffer(io, &at))
			break;
		if (!step(s, &at)) {
			at.left = 1;
			break;
		}
	}
	if (at.left)
		lose_frames(&s->frames);
	return 0;
}

/* A message of HTTP/1 begins. */
static __always_inline void begin_message(struct stream *s, struct io *io, const union head *head)
{
	__u64 first = head->word[0];
	__u32 d = io->direction & 1;

	if (STARTS("HTTP/1."))
		s->response = d + 1;
	io->flags |= FLAG_HEAD;
	s->begun[d] = 1;
	s->taken[d] = 0;
	s->capped |= 1 << d;
}

/*
 * 0 if a buffer of HTTP/2 is one DATA frame, as far as its beginning tells. Arithmetic alone: the verifier would take each
 * branch through all that follows.
 */
static __always_inline __u8 beyond_data(const struct stream *s, const struct io *io, const union head *head)
{
	const __u8 *b = head->byte;
	__u32 inside = s->frames.left | s->frames.have, followed = s->frames.direction ^ io->direction ^ 1;
	__u32 http1 = (__u32)(s->frames.state - 1) >> 31, shorter = (frame_length(b) + FRAME_HEAD_BYTES - io->length) >> 31;

	return b[3] | (~b[8] & 1) | http1 | shorter | ((inside | -inside) >> 31 & followed);
}

/* Looks at the first bytes of a call: does a message begin, and which? */
static __noinline int look(struct stream *s, struct io *io, const union head *head)
{
	struct frames *f = &s->frames;

	s->begun[io->direction & 1] = 0;
	if (f->state == FRAMES_NONE) {
		if (is_preface(head)) {
			io->flags |= FLAG_HEAD;
			s->capped = 0;
			f->state = FRAMES_FOLLOWED;
			f->direction = io->direction;
			f->left = PREFACE_BYTES;
		} else if (is_http_head(head)) {
			begin_message(s, io, head);
		} else if (!(s->flags & FLAG_FRESH) && is_request_frame(head)) {
			s->capped = 0;
			f->state = FRAMES_FOLLOWED;
			f->direction = io->direction;
		}
	} else if (f->state == FRAMES_LOST && f->direction == io->direction) {
		if (is_frame(head->byte, true)) {
			f->state = FRAMES_FOLLOWED;
		} else if (is_http_head(head)) { /* bytes of HTTP/1 were taken for a frame */
			f->state = FRAMES_NONE;
			begin_message(s, io, head);
		}
	}
	io->beyond = beyond_data(s, io, head);
	if (is_followed(s, io->direction))
		follow(s, io);
	return 0;
}

#endif
