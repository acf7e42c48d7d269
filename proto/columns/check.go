package columns

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"unicode/utf8"

	v1 "github.com/spile/spile/proto/spile/v1"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// maxStringBytes bounds each string of a call; header blocks are capped far below it on the node.
const maxStringBytes = 64 << 10

var (
	errNil      = errors.New("is nil")
	errID       = errors.New("id is not 32 lower-case hex digits")
	errTime     = errors.New("time is missing or outside the years 1678 to 2261")
	errDuration = errors.New("duration is negative or longer than 292 years")
	errUTF8     = errors.New("holds a string that is not UTF-8 or exceeds 64 KiB")
	errCoverage = errors.New("coverage flag is empty or has a comma")
	errShare    = errors.New("coverage of a peer is not 0 to 1 in steps of 0.001")
	errBytes    = errors.New("content length overflows")
	errEnum     = errors.New("observed is negative")
)

// Check says whether a call can be carried without altering it.
func Check(c *v1.Call) error {
	if err := checkNumbers(c); err != nil {
		return err
	}
	if !textOK(c.Node, c.Protocol, c.Scheme, c.Method, c.Authority, c.Path, c.Route, c.Service, c.Principal, c.Session) ||
		!textOK(c.Coverage...) || !peerOK(c.Source) || !peerOK(c.Destination) || !authOK(c.Auth) || c.Auth != nil && !textOK(c.Auth.Credential) ||
		!tlsOK(c.Tls) || !signaturesOK(c.Signatures) || !hashesOK(c.Request) || !hashesOK(c.Response) || !contentOK(c.Request) || !contentOK(c.Response) {
		return errUTF8
	}
	return nil
}

// checkNumbers is Check without the texts.
func checkNumbers(c *v1.Call) error {
	if c == nil {
		return errNil
	}
	if id := [idBytes]byte{}; !unhex(id[:], c.Id) {
		return errID
	}
	if _, ok := unixNanos(c.Time); !ok {
		return errTime
	}
	if d := c.Duration; d != nil {
		if d.Seconds < 0 || d.Nanos < 0 || d.Nanos >= 1e9 || d.Seconds > math.MaxInt64/int64(1e9)-1 {
			return errDuration
		}
	}
	if c.Observed < 0 {
		return errEnum
	}
	for _, flag := range c.Coverage {
		if flag == "" || strings.IndexByte(flag, ',') >= 0 {
			return errCoverage
		}
	}
	if !shareOK(c.Source) || !shareOK(c.Destination) {
		return errShare
	}
	for _, s := range c.Signatures {
		if s == nil {
			return fmt.Errorf("signature %w", errNil)
		}
	}
	for _, content := range [...]*v1.Content{c.Request, c.Response} {
		if content == nil {
			continue
		}
		if content.Bytes != nil && *content.Bytes == math.MaxUint64 {
			return errBytes
		}
		for _, f := range content.Fields {
			if f == nil {
				return fmt.Errorf("field %w", errNil)
			}
		}
	}
	return nil
}

// contentOK leaves out the fields' hashes, which have a column of their own.
func contentOK(c *v1.Content) bool {
	if c == nil {
		return true
	}
	if !textOK(c.GetContentType(), c.Shape) || !textOK(c.HeaderNames...) {
		return false
	}
	for _, f := range c.Fields {
		if !textOK(f.Path, f.Type, f.Class) {
			return false
		}
	}
	for k, v := range c.Headers {
		if !textOK(k, v) {
			return false
		}
	}
	return true
}

func hashesOK(c *v1.Content) bool {
	for _, f := range c.GetFields() {
		if !textOK(f.Hash) {
			return false
		}
	}
	return true
}

func signaturesOK(list []*v1.Signature) bool {
	for _, s := range list {
		if !textOK(s.Rule, s.Location) {
			return false
		}
	}
	return true
}

func peerOK(p *v1.Peer) bool {
	return p == nil || textOK(p.Address, p.Process, p.BuildId, p.Container, p.PodUid, p.Workload)
}

// shareOK is false for NaN too.
func shareOK(p *v1.Peer) bool {
	if p == nil || p.Coverage == nil {
		return true
	}
	v := *p.Coverage
	return v >= 0 && v <= 1 && *share(thousandths(p)) == v && !math.Signbit(v)
}

// thousandths is a peer's coverage in its column: 0 where it is unknown, else 1 + thousandths.
func thousandths(p *v1.Peer) uint32 {
	if p == nil || p.Coverage == nil {
		return 0
	}
	return 1 + uint32(math.Round(*p.Coverage*wholeShare))
}

// wholeShare is a coverage of 1 in thousandths.
const wholeShare = 1000

// share undoes thousandths.
func share(column uint32) *float64 {
	if column == 0 {
		return nil
	}
	v := float64(column-1) / wholeShare
	return &v
}

// authOK leaves out the credential, which has a column of its own.
func authOK(a *v1.Auth) bool {
	if a == nil {
		return true
	}
	if !textOK(a.Scheme, a.Location, a.Name) {
		return false
	}
	j := a.Jwt
	return j == nil || textOK(j.Alg, j.Iss) && textOK(j.Aud...) && textOK(j.Scopes...) && textOK(j.Claims...)
}

func tlsOK(t *v1.Tls) bool {
	return t == nil || textOK(t.Version, t.Cipher, t.Group, t.Sni, t.Alpn, t.Ja4)
}

func textOK(texts ...string) bool {
	for _, s := range texts {
		if len(s) > maxStringBytes || !utf8.ValidString(s) {
			return false
		}
	}
	return true
}

// unhex reads lower-case hex digits, and reports whether s is that and fills dst.
func unhex(dst []byte, s string) bool {
	if len(s) != 2*len(dst) {
		return false
	}
	bad := byte(0)
	for i := range dst {
		hi, lo := digits[s[2*i]], digits[s[2*i+1]]
		dst[i] = hi<<4 | lo&15
		bad |= hi | lo
	}
	return bad < 16
}

// digits are the values of lower-case hex digits; 16 stands for everything else.
var digits = func() (table [256]byte) {
	for c := range table {
		table[c] = 16
	}
	for i, c := range "0123456789abcdef" {
		table[c] = byte(i)
	}
	return table
}()

func unixNanos(t *timestamppb.Timestamp) (int64, bool) {
	if t == nil || t.Nanos < 0 || t.Nanos >= 1e9 || t.Seconds <= math.MinInt64/int64(1e9) || t.Seconds >= math.MaxInt64/int64(1e9) {
		return 0, false
	}
	return t.Seconds*1e9 + int64(t.Nanos), true
}
