package detect

import (
	"crypto/sha256"
	"encoding/hex"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/spile/spile/proto/spile/v1"
)

const (
	// maxEvidence is how many calls a finding names: its first ones.
	maxEvidence   = 5
	stateOpen     = "open"
	scopeLoopback = "loopback"
	// loopbackSeverity is what a finding has whose calls never left the host.
	loopbackSeverity = "low"
)

// key is what makes two matches one finding. A part that the rule does not group by is empty.
type key struct {
	rule, service, method, route, principal string
}

func keyOf(r *Rule, call *v1.Call) key {
	k := key{rule: r.ID}
	for _, g := range r.Group {
		switch g {
		case "service":
			k.service = call.GetService()
		case "method":
			k.method = call.GetMethod()
		case "route":
			k.route = call.GetRoute()
		case "principal":
			k.principal = call.GetPrincipal()
		}
	}
	return k
}

// id is the finding's: "f:" and 16 hex digits. Parts are separated by a byte that none can hold unescaped in HTTP.
func (k key) id() string {
	b := make([]byte, 0, 256)
	for _, part := range []string{k.rule, k.service, k.method, k.route, k.principal} {
		b = append(append(b, part...), 0)
	}
	sum := sha256.Sum256(b)
	return "f:" + hex.EncodeToString(sum[:8])
}

// sighting is one match of one rule.
type sighting struct {
	rule     *Rule
	key      key
	id       string
	call     *v1.Call
	severity string
	loopback bool
	why      string
}

func (s *sighting) first() *v1.Finding {
	f := &v1.Finding{
		FirstSeen: copyTime(s.call.GetTime()), LastSeen: copyTime(s.call.GetTime()),
		Severity: s.severity, Count: 1, Revision: 1,
	}
	if s.loopback {
		f.Scope, f.Severity = scopeLoopback, s.loopbackSeverity()
	}
	s.describe(f)
	f.Evidence = []*v1.Evidence{s.evidence()}
	return f
}

func (s *sighting) evidence() *v1.Evidence {
	return &v1.Evidence{
		Call: s.call.GetId(), Why: s.why, Time: copyTime(s.call.GetTime()), StatusCode: s.call.GetStatusCode(),
		Source: copyPeer(s.call.GetSource()), Destination: copyPeer(s.call.GetDestination()),
	}
}

// next is the finding after this sighting; raise says that sinks must hear of it.
func (s *sighting) next(old *v1.Finding) (next *v1.Finding, raise bool) {
	next = &v1.Finding{
		FirstSeen: earlier(old.FirstSeen, s.call.GetTime()), LastSeen: later(old.LastSeen, s.call.GetTime()),
		Severity: old.Severity, Count: old.Count + 1, Revision: old.Revision,
		Scope: old.Scope, Evidence: old.Evidence,
	}
	s.describe(next)
	severity := s.severity
	if s.loopback {
		severity = s.loopbackSeverity()
	} else {
		next.Scope = ""
	}
	if severityRank(severity) > severityRank(next.Severity) {
		next.Severity = severity
	}
	if len(old.Evidence) < maxEvidence {
		// A full slice expression: the older value keeps its own evidence.
		next.Evidence = append(old.Evidence[:len(old.Evidence):len(old.Evidence)], s.evidence())
	}
	raise = isMilestone(next.Count) || next.Severity != old.Severity || next.Scope != old.Scope || next.State != old.State
	return next, raise
}

// describe fills what comes from the rule and the group; a newer version of the rule describes its old findings anew.
func (s *sighting) describe(f *v1.Finding) {
	f.Id, f.Rule, f.Title = s.id, s.rule.ID, s.rule.Title
	f.Service, f.Method, f.Route, f.Principal = s.key.service, s.key.method, s.key.route, s.key.principal
	f.State, f.Confidence = stateOpen, s.rule.Confidence
	f.Owasp, f.Cwe, f.Attack = s.rule.OWASP, s.rule.CWE, s.rule.Attack
}

func (s *sighting) loopbackSeverity() string {
	if severityRank(s.severity) < severityRank(loopbackSeverity) {
		return s.severity
	}
	return loopbackSeverity
}

// isMilestone says whether n is 10, 100, 1,000, ...
func isMilestone(n uint64) bool {
	for n >= 10 && n%10 == 0 {
		n /= 10
		if n == 1 {
			return true
		}
	}
	return false
}

func copyTime(t *timestamppb.Timestamp) *timestamppb.Timestamp {
	if t == nil {
		return nil
	}
	return &timestamppb.Timestamp{Seconds: t.Seconds, Nanos: t.Nanos}
}

// copyPeer lets a finding outlive the batch that its call came in.
func copyPeer(p *v1.Peer) *v1.Peer {
	if p == nil {
		return nil
	}
	return proto.CloneOf(p)
}

func before(a, b *timestamppb.Timestamp) bool {
	if a.Seconds != b.Seconds {
		return a.Seconds < b.Seconds
	}
	return a.Nanos < b.Nanos
}

// earlier and later keep the old value, which nobody changes, and copy the call's, which its owner may.
func earlier(old, t *timestamppb.Timestamp) *timestamppb.Timestamp {
	if t != nil && (old == nil || before(t, old)) {
		return copyTime(t)
	}
	return old
}

func later(old, t *timestamppb.Timestamp) *timestamppb.Timestamp {
	if t != nil && (old == nil || before(old, t)) {
		return copyTime(t)
	}
	return old
}
