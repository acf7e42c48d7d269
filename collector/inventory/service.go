package inventory

import (
	"cmp"
	"maps"
	"slices"

	v1 "github.com/spile/spile/proto/spile/v1"
)

// service is one service under construction. Its counts are its own: they include what no endpoint has room for.
type service struct {
	place
	name                          string
	calls, clientCalls, unmatched uint64
	protocols, classes, processes names
	figure
	span
	answered   bool // has an active endpoint
	candidates int
	endpoints  map[key]*endpoint
	sorted     []*endpoint // nil after a new endpoint
	shown      *v1.Service // the row as handed out, nil after a change
}

func (s *service) observe(c *v1.Call, at sighting) {
	s.shown = nil
	s.figure.observe(c, at, s.calls, s.clientCalls, s.span.last)
	s.span.extend(at.nanos)
	s.protocols.add(at.protocol, maxProtocols)
	s.processes.add(c.GetDestination().GetProcess(), maxProcesses)
	for _, content := range [2]*v1.Content{c.Request, c.Response} {
		for _, f := range content.GetFields() {
			s.classes.add(f.GetClass(), maxClasses)
		}
	}
	if at.counts {
		s.calls++
	}
	if at.clientOnly {
		s.clientCalls++
	}
}

// row renders the service. What it hands out is never changed.
func (s *service) row() *v1.Service {
	if s.shown == nil {
		s.shown = &v1.Service{
			Name: s.name, Calls: s.calls, ClientCalls: s.clientCalls, Unmatched: s.unmatched,
			Endpoints: uint32(len(s.endpoints) - s.candidates),
			Protocols: s.protocols.sorted(), DataClasses: s.classes.sorted(), Processes: s.processes.sorted(),
			FirstSeen: s.firstSeen(), LastSeen: s.lastSeen(), Coverage: s.coverage,
		}
	}
	return s.shown
}

func serviceOf(r *v1.Service) *service {
	return &service{
		name: r.GetName(), calls: r.GetCalls(), clientCalls: r.GetClientCalls(), unmatched: r.GetUnmatched(),
		protocols: namesOf(r.GetProtocols()), classes: namesOf(r.GetDataClasses()), processes: namesOf(r.GetProcesses()),
		span: spanOf(r.GetFirstSeen(), r.GetLastSeen()), figure: figure{r.Coverage}, endpoints: map[key]*endpoint{},
	}
}

// ordered lists the endpoints by route and method.
func (s *service) ordered() []*endpoint {
	if s.sorted == nil {
		s.sorted = slices.SortedFunc(maps.Values(s.endpoints), func(a, b *endpoint) int {
			return cmp.Or(cmp.Compare(a.route, b.route), cmp.Compare(a.method, b.method))
		})
	}
	return s.sorted
}
