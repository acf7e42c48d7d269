/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What the first bytes of a buffer look like. Sixteen bytes decide; nothing here is trusted to be a message. */
#ifndef SPILE_HTTP_H
#define SPILE_HTTP_H

#define SNIFF_BYTES 16

/* A literal of at most 8 bytes as the number that those bytes load as, so that a comparison is one branch. */
#define BYTE(s, i) ((i) < sizeof(s) - 1 ? (__u64)(__u8)(s)[(i) < sizeof(s) - 1 ? (i) : 0] << 8 * (i) : 0)
#define WORD(s) (BYTE(s, 0) | BYTE(s, 1) | BYTE(s, 2) | BYTE(s, 3) | BYTE(s, 4) | BYTE(s, 5) | BYTE(s, 6) | BYTE(s, 7))
#define MASK(s) (~0ULL >> 8 * (9 - sizeof(s)))
#define STARTS(s) ((first & MASK(s)) == WORD(s))

/* RFC 9112 section 3.2: origin form, absolute form or asterisk form follows the method. */
static __always_inline bool is_target(__u8 c)
{
	return c == '/' || c == '*' || c == 'h' || c == 'H';
}

/* The first bytes of a buffer; zero beyond its end. */
union head {
	__u64 word[2];
	__u8 byte[16];
};

#define METHOD(s) (STARTS(s) && is_target(head->byte[sizeof(s) - 1]))

/* Whether an HTTP/2 client begins here (RFC 9113 section 3.4). */
static __always_inline bool is_preface(const union head *head)
{
	return head->word[0] == WORD("PRI * HT");
}

/* Whether a message of HTTP/1 begins here: a request line or a status line. */
static __noinline bool is_http_head(const union head *head)
{
	__u64 first = head->word[0];

	return STARTS("HTTP/1.") || METHOD("GET ") || METHOD("POST ") || METHOD("PUT ") || METHOD("DELETE ") ||
	       METHOD("HEAD ") || METHOD("PATCH ") || METHOD("OPTIONS ") || STARTS("CONNECT ") ||
	       METHOD("TRACE ") || METHOD("QUERY ") || METHOD("COPY ") || METHOD("MOVE ") || METHOD("LOCK ") ||
	       METHOD("UNLOCK ") || METHOD("MKCOL ") || METHOD("PURGE ") || METHOD("REPORT ") || METHOD("SEARCH ") ||
	       STARTS("PROPFIND") || STARTS("PROPPATC");
}

/* A TLS record header: content type, legacy version 3.x (RFC 8446 section 5.1). */
static __always_inline bool is_tls_record(const union head *head)
{
	const __u8 *p = head->byte;

	return p[0] >= 0x14 && p[0] <= 0x17 && p[1] == 0x03 && p[2] <= 0x04;
}

/* Reads the first bytes of the call's buffer; the rest of `head` is zero. */
static __always_inline bool sniff(const struct io *io, union head *head)
{
	__u64 base = io->buf, len = io->length;

	head->word[0] = 0;
	head->word[1] = 0;
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
	if (len > SNIFF_BYTES || bpf_probe_read_user(head->byte, len, (void *)base))
		return false;
	count(COUNT_BYTES_READ, len);
	return true;
}

#endif
