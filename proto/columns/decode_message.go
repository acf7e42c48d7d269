package columns

import (
	v1 "github.com/spile/spile/proto/spile/v1"
)

// The messages below have columns of their own for what varies, so each call gets a copy of the
// dictionary entry; lists and maps inside are shared.

func (r *reader) source(i, port, coverage uint32) *v1.Peer {
	p := pick(r, r.peers, i)
	if p == nil {
		if port != 0 || coverage != 0 {
			r.fail("port or coverage without source")
		}
		return nil
	}
	out := withCoverage(r, p, coverage)
	out.Port = port
	return out
}

// covered names a destination with its coverage, which calls share as they share the destination.
type covered struct{ peer, coverage uint32 }

func (r *reader) destination(i, coverage uint32) *v1.Peer {
	p := pick(r, r.peers, i)
	switch {
	case p == nil && coverage != 0:
		r.fail("coverage without destination")
		return nil
	case p == nil || coverage == 0:
		return p
	}
	key := covered{i, coverage}
	if r.covered[key] == nil {
		r.covered[key] = withCoverage(r, p, coverage)
	}
	return r.covered[key]
}

// withCoverage copies a peer.
func withCoverage(r *reader, p *v1.Peer, coverage uint32) *v1.Peer {
	if coverage > 1+wholeShare {
		r.fail("coverage of %d thousandths", coverage-1)
		coverage = 0
	}
	return &v1.Peer{Address: p.Address, Port: p.Port, Process: p.Process, Pid: p.Pid, BuildId: p.BuildId,
		Container: p.Container, PodUid: p.PodUid, Workload: p.Workload, Coverage: share(coverage)}
}

func (r *reader) auth(i, credential uint32) *v1.Auth {
	a := pick(r, r.auths, i)
	if a == nil {
		if credential != 0 {
			r.fail("credential without auth")
		}
		return nil
	}
	return &v1.Auth{Scheme: a.Scheme, Location: a.Location, Credential: r.text(credential), Jwt: a.Jwt, Name: a.Name}
}

// fieldBytes is about what a Field costs in memory.
const fieldBytes = 128

func (r *reader) content(i uint32, bytesPlus1 uint64, records uint32) *v1.Content {
	t := pick(r, r.contents, i)
	if t == nil {
		if bytesPlus1 != 0 || records != 0 {
			r.fail("size without content")
		}
		return nil
	}
	c := &v1.Content{ContentType: t.ContentType, HeaderNames: t.HeaderNames, Shape: t.Shape, Records: records, Headers: t.Headers}
	if bytesPlus1 > 0 {
		n := bytesPlus1 - 1
		c.Bytes = &n
	}
	n := len(t.Fields)
	if n == 0 {
		return c
	}
	if n > len(r.col.FieldHashes)-r.field {
		r.fail("%d fields", n)
		return nil
	}
	if r.expand(n * fieldBytes); r.err != nil {
		return nil
	}
	fields := make([]v1.Field, n)
	c.Fields = make([]*v1.Field, n)
	for k, f := range t.Fields {
		at := r.field + k
		out := &fields[k]
		out.Path, out.Type, out.Class = f.Path, f.Type, f.Class
		out.Hash = r.text(r.col.FieldHashes[at])
		out.Length, out.Count = r.col.FieldLengths[at], r.col.FieldCounts[at]
		c.Fields[k] = out
	}
	r.field += n
	return c
}
