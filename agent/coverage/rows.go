package coverage

import (
	"cmp"
	"slices"

	v1 "github.com/spile/spile/proto/spile/v1"
)

// Rows lists at most n processes: those with the most bytes that were not decoded, then the busiest.
func (t *Table) Rows(n int) []*v1.Coverage {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := make([]*entry, 0, len(t.entries))
	for _, e := range t.entries {
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b *entry) int {
		x, y := a.bytes(), b.bytes()
		return cmp.Or(
			cmp.Compare(y.undecoded()+y.quic, x.undecoded()+x.quic),
			cmp.Compare(y.tls, x.tls),
			cmp.Compare(b.calls+b.lost, a.calls+a.lost),
			cmp.Compare(a.TGID, b.TGID),
			cmp.Compare(a.Start, b.Start),
		)
	})
	list = list[:min(len(list), n)]
	rows := make([]*v1.Coverage, len(list))
	for i, e := range list {
		f := e.bytes()
		rows[i] = &v1.Coverage{
			Pid: e.TGID, Process: cmp.Or(e.facts.Name, e.comm), Reason: e.why(), TlsBytes: f.tls, DecodedBytes: f.decoded,
			UnboundBytes: f.unbound, QuicBytes: f.quic, Calls: e.calls, LostCalls: e.lost,
			Container: e.facts.Container, PodUid: e.facts.PodUID,
		}
	}
	return rows
}

// why is the reason where one is due.
func (e *entry) why() string {
	switch {
	case !e.hidden() && !e.ktls:
		return ""
	case e.reason != "":
		return e.reason
	case !e.hidden():
		return ""
	case e.ended != 0:
		return "it ended before it could be looked at; what did its TLS is unknown"
	}
	return "not looked at yet"
}
