/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What the first bytes of a buffer look like. Sixteen bytes decide; nothing here is trusted to be a message. */
#ifndef SPILE_HTTP_H
#define SPILE_HTTP_H

#define SNIFF_BYTES 16

/* Bytes of a string as a little-endian number, so that a comparison is one instruction. */
#define S4(a, b, c, d) ((__u32)(a) | (__u32)(b) << 8 | (__u32)(c) << 16 | (__u32)(d) << 24)

static __always_inline bool starts(const __u8 *p, const char *word, __u32 n)
{
	for (__u32 i = 0; i < n; i++)
		if (p[i] != (__u8)word[i])
			return false;
	return true;
}

/* RFC 9112 section 3.2: origin form, absolute form or asterisk form follows the method. */
static __always_inline bool is_target(__u8 c)
{
	return c == '/' || c == '*' || c == 'h' || c == 'H';
}

#define METHOD(word) (starts(p, word " ", sizeof(word)) && is_target(p[sizeof(word)]))

/* Whether a message begins here: a request line, a status line or the preface of HTTP/2 (RFC 9113 section 3.4). */
static __always_inline bool is_http_head(const __u8 *p)
{
	switch (p[0]) {
	case 'C':
		return starts(p, "CONNECT ", 8) || METHOD("COPY");
	case 'D':
		return METHOD("DELETE");
	case 'G':
		return METHOD("GET");
	case 'H':
		return starts(p, "HTTP/1.", 7) || METHOD("HEAD");
	case 'L':
		return METHOD("LOCK");
	case 'M':
		return METHOD("MKCOL") || METHOD("MOVE");
	case 'O':
		return METHOD("OPTIONS");
	case 'P':
		return METHOD("POST") || METHOD("PUT") || METHOD("PATCH") || METHOD("PROPFIND") ||
		       METHOD("PROPPATCH") || METHOD("PURGE") || starts(p, "PRI * HTTP/2", 12);
	case 'Q':
		return METHOD("QUERY");
	case 'R':
		return METHOD("REPORT");
	case 'S':
		return METHOD("SEARCH");
	case 'T':
		return METHOD("TRACE");
	case 'U':
		return METHOD("UNLOCK");
	}
	return false;
}

/* A TLS record header: content type, legacy version 3.x (RFC 8446 section 5.1). */
static __always_inline bool is_tls_record(const __u8 *p)
{
	return p[0] >= 0x14 && p[0] <= 0x17 && p[1] == 0x03 && p[2] <= 0x04;
}

/* Reads the first bytes of the call's buffer; the rest of `head` is zero. */
static __always_inline bool sniff(const struct io *io, __u8 *head)
{
	__u64 base = io->buf, len = io->length;

	__builtin_memset(head, 0, SNIFF_BYTES);
	if (io->flags & FLAG_UNSEEN)
		return false;
	for (__u32 i = 0; i < 4 && i < io->iovs; i++) {
		struct iovec iov;

		if (bpf_probe_read_user(&iov, sizeof(iov), (void *)(io->buf + i * sizeof(iov))))
			return false;
		base = iov.base;
		len = iov.len < io->length ? iov.len : io->length;
		if (len)
			break;
	}
	if (len > SNIFF_BYTES)
		len = SNIFF_BYTES;
	asm volatile("" : "+r"(len));
	if (len > SNIFF_BYTES || bpf_probe_read_user(head, len, (void *)base))
		return false;
	count(COUNT_BYTES_READ, len);
	return true;
}

#endif
