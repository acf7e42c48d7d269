package inventory

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/spile/spile/proto/spile/v1"
)

// key names an endpoint within its service.
type key struct{ method, route string }

// endpoint is one row under construction. Counts sit in small slices: an endpoint knows a handful of each.
type endpoint struct {
	place
	key
	id, service, version string
	protocol             string
	active               bool
	calls, clientCalls   uint64
	statuses             tally
	auth                 tally
	schemes              tally
	classes              names
	callers              names
	figure
	span
	shown *v1.Endpoint // the row as handed out, nil after a change
}

func newEndpoint(service string, k key) *endpoint {
	k = key{strings.Clone(k.method), strings.Clone(k.route)}
	return &endpoint{key: k, service: service, id: endpointID(service, k), version: versionOf(k.route)}
}

// endpointID is the same for an endpoint wherever and whenever it is seen. Parts cannot run into each other: none holds NUL.
func endpointID(service string, k key) string {
	sum := sha256.Sum256([]byte("endpoint\x00" + service + "\x00" + k.method + "\x00" + k.route))
	return "e:" + hex.EncodeToString(sum[:8])
}

func (e *endpoint) observe(c *v1.Call, s sighting) {
	e.shown = nil
	e.figure.observe(c, s, e.calls, e.clientCalls, e.span.last)
	e.span.extend(s.nanos)
	if newer(s.protocol, e.protocol) {
		e.protocol = strings.Clone(s.protocol)
	}
	e.callers.add(callerOf(c), maxCallers)
	for _, content := range [2]*v1.Content{c.Request, c.Response} {
		for _, f := range content.GetFields() {
			e.classes.add(f.GetClass(), maxClasses)
		}
	}
	if s.clientOnly {
		e.clientCalls++
	}
	if !s.counts {
		return
	}
	e.calls++
	e.statuses.addStatus(c.StatusCode)
	e.schemes.add(c.Scheme, maxSchemes)
	scheme := c.GetAuth().GetScheme()
	if scheme == "" {
		scheme = "none"
	}
	e.auth.add(scheme, maxSchemes)
}

// row renders the endpoint. What it hands out is never changed.
func (e *endpoint) row() *v1.Endpoint {
	if e.shown != nil {
		return e.shown
	}
	state := "candidate"
	if e.active {
		state = "active"
	}
	e.shown = &v1.Endpoint{
		Id: e.id, Service: e.service, Protocol: e.protocol, Method: e.method, Route: e.route, Version: e.version, State: state,
		Calls: e.calls, ClientCalls: e.clientCalls,
		Statuses: e.statuses.table(), Auth: e.auth.table(), Schemes: e.schemes.table(),
		DataClasses: e.classes.sorted(), Callers: e.callers.sorted(),
		FirstSeen: e.firstSeen(), LastSeen: e.lastSeen(), Coverage: e.coverage,
	}
	return e.shown
}

func endpointOf(r *v1.Endpoint) *endpoint {
	e := newEndpoint(r.GetService(), key{r.GetMethod(), r.GetRoute()})
	e.protocol, e.active = r.GetProtocol(), r.GetState() == "active"
	e.calls, e.clientCalls = r.GetCalls(), r.GetClientCalls()
	e.statuses, e.auth, e.schemes = tallyOf(r.GetStatuses()), tallyOf(r.GetAuth()), tallyOf(r.GetSchemes())
	e.classes, e.callers = namesOf(r.GetDataClasses()), namesOf(r.GetCallers())
	e.span, e.coverage = spanOf(r.GetFirstSeen(), r.GetLastSeen()), r.Coverage
	return e
}

// span is first and last seen, in Unix nanoseconds; 0 is unknown.
type span struct{ first, last int64 }

func (s *span) extend(nanos int64) {
	if nanos == 0 {
		return
	}
	if s.first == 0 || nanos < s.first {
		s.first = nanos
	}
	s.last = max(s.last, nanos)
}

func spanOf(first, last *timestamppb.Timestamp) (s span) {
	if first != nil && last != nil {
		s = span{first.AsTime().UnixNano(), last.AsTime().UnixNano()}
	}
	return s
}

func (s *span) firstSeen() *timestamppb.Timestamp { return instant(s.first) }
func (s *span) lastSeen() *timestamppb.Timestamp  { return instant(s.last) }

func instant(nanos int64) *timestamppb.Timestamp {
	if nanos == 0 {
		return nil
	}
	return &timestamppb.Timestamp{Seconds: nanos / 1e9, Nanos: int32(nanos % 1e9)}
}
