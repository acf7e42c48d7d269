package columns

import (
	"sort"

	v1 "github.com/spile/spile/proto/spile/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// These functions write protobuf wire format by hand, without the parts that have columns of their
// own. The bytes are dictionary keys and entries at once, which is what makes a repeated message
// cost one map lookup; a test walks the descriptors and fails when a field is missing here.

// appendPeer leaves out the coverage, and a source's port.
func appendPeer(b []byte, p *v1.Peer, withPort bool) []byte {
	b = appendText(b, 1, p.Address)
	if withPort {
		b = appendUint(b, 2, uint64(p.Port))
	}
	b = appendText(b, 3, p.Process)
	b = appendUint(b, 4, uint64(p.Pid))
	b = appendText(b, 5, p.BuildId)
	b = appendText(b, 6, p.Container)
	b = appendText(b, 7, p.PodUid)
	return appendText(b, 8, p.Workload)
}

// appendAuth leaves out the credential.
func appendAuth(b []byte, a *v1.Auth) []byte {
	b = appendText(b, 1, a.Scheme)
	b = appendText(b, 2, a.Location)
	if j := a.Jwt; j != nil {
		jwt := appendText(nil, 1, j.Alg)
		jwt = appendText(jwt, 2, j.Iss)
		jwt = appendTexts(jwt, 3, j.Aud)
		jwt = appendTime(jwt, 4, j.Issued)
		jwt = appendTime(jwt, 5, j.Expires)
		jwt = appendTexts(jwt, 6, j.Scopes)
		jwt = appendTexts(jwt, 7, j.Claims)
		b = appendMessage(b, 4, jwt)
	}
	return appendText(b, 5, a.Name)
}

func appendTLS(b []byte, t *v1.Tls) []byte {
	b = appendText(b, 1, t.Version)
	b = appendText(b, 2, t.Cipher)
	b = appendText(b, 3, t.Group)
	b = appendText(b, 4, t.Sni)
	b = appendText(b, 5, t.Alpn)
	return appendText(b, 6, t.Ja4)
}

// appendContent leaves out bytes, records and each field's hash, length and count.
func appendContent(b []byte, c *v1.Content) []byte {
	if c.ContentType != nil {
		b = protowire.AppendTag(b, 2, protowire.BytesType)
		b = protowire.AppendString(b, *c.ContentType)
	}
	b = appendTexts(b, 3, c.HeaderNames)
	b = appendText(b, 4, c.Shape)
	for _, f := range c.Fields {
		n := textSize(f.Path) + textSize(f.Type) + textSize(f.Class)
		b = protowire.AppendTag(b, 6, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(n))
		b = appendText(b, 1, f.Path)
		b = appendText(b, 2, f.Type)
		b = appendText(b, 3, f.Class)
	}
	if len(c.Headers) == 0 {
		return b
	}
	names := make([]string, 0, len(c.Headers))
	for k := range c.Headers {
		names = append(names, k)
	}
	sort.Strings(names)
	for _, k := range names {
		entry := appendText(nil, 1, k)
		entry = appendText(entry, 2, c.Headers[k])
		b = appendMessage(b, 7, entry)
	}
	return b
}

// appendSignatures writes a partial Call, which is the shortest message with such a list.
func appendSignatures(b []byte, list []*v1.Signature) []byte {
	for _, s := range list {
		sig := appendText(nil, 1, s.Rule)
		sig = appendText(sig, 2, s.Location)
		sig = appendUint(sig, 3, uint64(s.Score))
		b = appendMessage(b, 23, sig)
	}
	return b
}

// textSize is what appendText adds for a field number below 16.
func textSize(s string) int {
	if s == "" {
		return 0
	}
	return 1 + protowire.SizeBytes(len(s))
}

func appendText(b []byte, n protowire.Number, s string) []byte {
	if s == "" {
		return b
	}
	return protowire.AppendString(protowire.AppendTag(b, n, protowire.BytesType), s)
}

func appendTexts(b []byte, n protowire.Number, list []string) []byte {
	for _, s := range list {
		b = protowire.AppendString(protowire.AppendTag(b, n, protowire.BytesType), s)
	}
	return b
}

func appendMessage(b []byte, n protowire.Number, msg []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, n, protowire.BytesType), msg)
}

func appendUint(b []byte, n protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, n, protowire.VarintType), v)
}

func appendTime(b []byte, n protowire.Number, t *timestamppb.Timestamp) []byte {
	if t == nil {
		return b
	}
	ts := appendUint(nil, 1, uint64(t.Seconds))
	ts = appendUint(ts, 2, uint64(int64(t.Nanos)))
	return appendMessage(b, n, ts)
}
