package intake

import (
	"net/netip"
	"strconv"
	"strings"

	v1 "github.com/spile/spile/proto/spile/v1"
)

const (
	// tenant and cluster are part of the partition key from the start, so that giving them other
	// values later moves nothing.
	tenant  = "default"
	cluster = "default"

	// maxServiceBytes is the longest DNS name (RFC 1035 section 2.3.4).
	maxServiceBytes = 253
	unknownService  = "unknown"
)

// Service names what a call belongs to: the authority's host, else SNI, else what listens. It depends
// on nothing but the call, so every collector and every replay gives the same answer.
func Service(c *v1.Call) string {
	if host, ok := hostName(c.GetAuthority()); ok {
		return host
	}
	if host, ok := hostName(c.GetTls().GetSni()); ok {
		return host
	}
	d := c.GetDestination()
	port := strconv.FormatUint(uint64(d.GetPort()), 10)
	if p := d.GetProcess(); p != "" {
		return printable(p) + ":" + port
	}
	if a, err := netip.ParseAddr(d.GetAddress()); err == nil {
		if d.GetPort() == 0 {
			return a.String()
		}
		return netip.AddrPortFrom(a, uint16(d.GetPort())).String()
	}
	return unknownService
}

// hostName is the host of "host", "host:port", "[v6]:port" in lower case, where it is one. Anybody
// can send any Host header, so what is not plausible names nothing.
func hostName(authority string) (string, bool) {
	host := authority
	if at := strings.LastIndexByte(host, '@'); at >= 0 {
		host = host[at+1:] // Userinfo is no name (RFC 9110 section 4.2.4).
	}
	if strings.HasPrefix(host, "[") {
		inside, _, ok := strings.Cut(host[1:], "]")
		a, err := netip.ParseAddr(inside)
		return a.String(), ok && err == nil
	}
	if strings.Count(host, ":") == 1 {
		host, _, _ = strings.Cut(host, ":")
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "" || len(host) > maxServiceBytes {
		return "", false
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return a.String(), true
	}
	for i := range len(host) {
		c := host[i]
		// Braces and asterisk are what masking leaves of a name.
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && !strings.ContainsRune("-._{}*", rune(c)) {
			return "", false
		}
	}
	return host, true
}

func printable(s string) string {
	if len(s) > maxServiceBytes-6 {
		s = s[:maxServiceBytes-6]
	}
	return strings.Map(func(r rune) rune {
		if r <= ' ' || r >= 0x7f {
			return '_'
		}
		return r
	}, s)
}

// Partition is FNV-1a (64 bits) of tenant, cluster and service, each but the last followed by a zero byte.
func Partition(service string) int {
	h := uint64(14695981039346656037)
	add := func(s string) {
		for i := range len(s) {
			h = (h ^ uint64(s[i])) * 1099511628211
		}
	}
	add(tenant + "\x00" + cluster + "\x00")
	add(service)
	return int(h % Partitions)
}
