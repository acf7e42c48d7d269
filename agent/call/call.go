// Package call turns an exchange into a Call. It is the one place where values become names, types, sizes, classes and
// keyed hashes; past it nothing holds a value, because v1.Call has no field for one.
//
//	parse.Exchange ──▶ url    path masked, query names, types, classes ─┐
//	  (values)     ──▶ header names masked, a closed list of values     ├─▶ *v1.Call
//	               ──▶ auth   scheme, place, keyed hash, JWT facts      │   (none)
//	               ──▶ body   field paths, types, classes, shape        ┘
//
// Everything is bounded: names in one place, fields of a body, depth, bytes of a path. What does not fit folds to "*" or
// "{more}" and is still counted; a body that ends early is described as far as it goes and the call says "truncated". So it
// says of a long body that came when many others did, of which only the beginning is described and the records counted.
//
// A Describer keeps its scratch memory between calls. It is used by one goroutine and holds no value of a call after
// Describe returns, except in scratch memory that the next call overwrites. What it remembers (plain, heads, shapes) are
// names and texts that masking leaves as they are, and so may be told. Reuse takes back calls that were sent.
package call

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"strings"
	"time"

	"github.com/spile/spile/agent/parse"
	v1 "github.com/spile/spile/proto/spile/v1"
)

// Config is what all calls of a node share.
type Config struct {
	Key      []byte // install key of keyed hashes, at least 16 bytes
	KeyEpoch uint32
	Node     string
}

// Context is what is known about one exchange beside its bytes.
type Context struct {
	BootToUnix  time.Duration // add to a time since boot to get Unix time
	Boot        string        // id of the kernel's boot; with the next four it names the stream that carried the exchange
	NetNS       uint32
	Conn        uint64 // 0 where no socket is known
	Stream      uint64
	Birth       time.Duration // of the connection, since boot
	Client      bool          // the watched process is the client
	TLS         bool
	PeerUnknown bool
}

// Describer makes Calls of exchanges.
type Describer struct {
	config Config
	mac    hash.Hash
	sum    [sha256.Size]byte
	tree   tree
	scan   scanner
	buf    []byte // a decoded value
	plain  []byte // what is being hashed
	unzip  inflater
	spare  []*v1.Call
	heads  heads
	shapes shapes
	kinds  kinds // of path segments
	hosts  plain
	types  plain  // of media
	names  plain  // of credentials, lower case
	path   []byte // being masked
	effort effort
	now    time.Duration // of the call at hand, since boot
}

// New returns a Describer. Without a key of at least 16 bytes its calls carry no hashes: a hash that anybody can
// compute would give the value away.
func New(c Config) *Describer {
	d := &Describer{config: c}
	if len(c.Key) >= minKeyBytes {
		d.mac = hmac.New(sha256.New, c.Key)
	}
	return d
}

const minKeyBytes = 16

// Describe reduces an exchange to a Call, whose peers are still empty. It returns nil for an exchange that is not one: a
// head is missing.
func (d *Describer) Describe(ctx Context, x *parse.Exchange) *v1.Call {
	if x == nil || !x.Seen() {
		return nil
	}
	req, res := x.Request, x.Response
	d.now = req.Start
	target := splitTarget(req.Target)
	c := d.blank()
	at, took := req.Start+ctx.BootToUnix, max(0, max(res.End, res.HeadEnd)-req.Start)
	c.Time.Seconds, c.Time.Nanos = int64(at/time.Second), int32(at%time.Second)
	c.Duration.Seconds, c.Duration.Nanos = int64(took/time.Second), int32(took%time.Second)
	c.Id = callID(ctx, x)
	c.Node = d.config.Node
	c.Observed = v1.Observed_OBSERVED_SERVER
	if ctx.Client {
		c.Observed = v1.Observed_OBSERVED_CLIENT
	}
	c.Protocol = req.Protocol
	c.Scheme = scheme(ctx, req)
	c.Method = method(req.Method)
	c.Authority = d.authority(req.Authority, target.authority)
	c.Path = d.maskPath(target.path)
	c.StatusCode = uint32(max(0, min(res.Status, 999)))
	c.KeyEpoch = d.config.KeyEpoch

	head := d.heads.of(req.Header)
	d.authenticate(c, req, head, target)
	var cover coverage
	c.Request.Fields = d.urlFields(c.Request.Fields, target, req.Header, head)
	d.content(c.Request, req, head, &cover)
	head = d.heads.of(res.Header)
	if head.cookies {
		c.Response.Fields = cookies(c.Response.Fields, res.Header, "set-cookie")
	}
	if res.Shed {
		d.unread(c.Response, res, head)
	} else {
		d.content(c.Response, res, head, &cover)
	}
	cover.lateJoin = x.LateJoin
	cover.gap = x.Gap
	cover.responseShed = res.Shed
	cover.peerUnknown = ctx.PeerUnknown
	cover.unknownHeader = req.UnknownHeaders+res.UnknownHeaders > 0
	c.Coverage = cover.words()
	return c
}

// callID hashes what names the exchange for good: its connection, its place on it, and when it began. The time keeps
// the ids of two agents' lives apart, which count the same connection from 0 again.
func callID(ctx Context, x *parse.Exchange) string {
	var b [128]byte
	out := append(b[:0], ctx.Boot...)
	out = append(out, 0)
	for _, v := range [...]uint64{uint64(ctx.NetNS), ctx.Conn, ctx.Stream, uint64(ctx.Birth), x.Ordinal, uint64(x.Request.Start)} {
		out = binary.LittleEndian.AppendUint64(out, v)
	}
	sum := sha256.Sum256(out)
	return hex.EncodeToString(sum[:16])
}

// hash is the keyed hash of a value; the domain keeps equal values of different meaning apart.
func (d *Describer) hash(domain string, parts ...string) string {
	if d.mac == nil {
		return ""
	}
	d.mac.Reset()
	d.plain = append(d.plain[:0], domain...)
	for _, p := range parts {
		d.plain = append(append(d.plain, 0), p...)
	}
	d.mac.Write(d.plain)
	clear(d.plain)
	var out [2 + 24]byte
	copy(out[:], "h:")
	hex.Encode(out[2:], d.mac.Sum(d.sum[:0])[:12])
	return string(out[:])
}

// Domains of keyed hashes.
const (
	domainPrincipal  = "principal"
	domainSession    = "session"
	domainCredential = "credential"
	domainObject     = "object"
	domainShape      = "shape"
)

func scheme(ctx Context, m *parse.Message) string {
	if ctx.TLS {
		return "https"
	}
	if m.Scheme == "https" {
		return "https" // a proxy in front took the TLS off
	}
	return "http"
}

// method keeps the registered methods and what looks like one; all else is "_OTHER", as OpenTelemetry names it.
func method(m string) string {
	for _, known := range [...]string{"GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"} {
		if m == known {
			return known
		}
	}
	if len(m) == 0 || len(m) > 20 {
		return "_OTHER"
	}
	for i := range len(m) {
		if c := m[i]; (c < 'A' || c > 'Z') && c != '-' && c != '_' {
			return "_OTHER"
		}
	}
	if maskedName(m) != m {
		return "_OTHER"
	}
	return strings.Clone(m)
}

// coverage collects what limits a record.
type coverage struct {
	lateJoin, truncated, gap, unknownHeader, peerUnknown, noBody, responseShed bool
}

func (c *coverage) words() []string {
	var out []string
	for _, f := range [...]struct {
		set  bool
		word string
	}{{c.lateJoin, "late_join"}, {c.truncated, "truncated"}, {c.gap, "gap"}, {c.unknownHeader, "unknown_header"}, {c.peerUnknown, "peer_unknown"}, {c.noBody, "no_body"}, {c.responseShed, "response_shed"}} {
		if f.set {
			out = append(out, f.word)
		}
	}
	return out
}

func (d *Describer) hashBytes(domain string, v []byte) string { return d.hash(domain, string(v)) }
