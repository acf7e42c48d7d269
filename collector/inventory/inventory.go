package inventory

import (
	"cmp"
	"slices"
	"strings"
	"sync"

	v1 "github.com/spile/spile/proto/spile/v1"
)

// Limits bound one partition.
type Limits struct {
	// Services in the partition. 64 partitions of 256 hold 10,000 services before the first of them is full.
	Services int
	// Endpoints in the partition, and of one service.
	Endpoints, PerService int
	// Candidates of one service, among its endpoints.
	Candidates int
}

// DefaultLimits are those of the product.
func DefaultLimits() Limits {
	return Limits{Services: 256, Endpoints: 9_000, PerService: 5_000, Candidates: 1_000}
}

const (
	// Elsewhere is the service that counts the calls to services beyond the limit.
	Elsewhere = "*"

	maxCallers   = 64
	maxClasses   = 32
	maxStatuses  = 64
	maxSchemes   = 16
	maxProcesses = 16
	maxProtocols = 8
	// A method is a token of any length (RFC 9110 9.1). OpenTelemetry names what is no method "_OTHER".
	maxMethodBytes = 32
	otherMethod    = "_OTHER"
)

// Inventory is one partition's services.
type Inventory struct {
	limits Limits

	mu        sync.RWMutex
	services  map[string]*service
	answered  int // services with an active endpoint
	endpoints packing[*endpoint]
	rows      packing[*service]
}

// New makes an empty inventory.
func New(limits Limits) *Inventory {
	return &Inventory{limits: limits, services: map[string]*service{}, endpoints: newPacking[*endpoint](), rows: newPacking[*service]()}
}

// Observe takes one call into account. Its route must be filled. It returns the id of the call's endpoint, "" where the
// call was counted as unmatched.
func (v *Inventory) Observe(c *v1.Call) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	s := sightingOf(c)
	svc := v.service(c.Service, s.exists)
	svc.observe(c, s)
	v.rows.touch(svc)
	ep := v.endpoint(svc, c, s.exists)
	if ep == nil {
		if s.counts {
			svc.unmatched++
		}
		return ""
	}
	if s.exists && !ep.active {
		ep.active = true
		svc.candidates--
		v.answer(svc)
	}
	ep.observe(c, s)
	v.endpoints.touch(ep)
	return ep.id
}

// service finds or makes the row of a service; where there is no room, the row of what is elsewhere.
func (v *Inventory) service(name string, exists bool) *service {
	if svc := v.services[name]; svc != nil {
		return svc
	}
	full := len(v.services) >= v.limits.Services || !exists && len(v.services)-v.answered >= v.limits.Services/2
	if full || name == "" {
		if svc := v.services[Elsewhere]; svc != nil {
			return svc
		}
		name = Elsewhere
	}
	svc := &service{name: strings.Clone(name), endpoints: map[key]*endpoint{}}
	v.services[svc.name] = svc
	v.rows.add(svc)
	return svc
}

// endpoint finds or makes the row of an endpoint; nil where there is no room.
func (v *Inventory) endpoint(svc *service, c *v1.Call, exists bool) *endpoint {
	k := key{method: c.Method, route: c.Route}
	if len(k.method) > maxMethodBytes {
		k.method = otherMethod
	}
	if ep := svc.endpoints[k]; ep != nil {
		return ep
	}
	switch {
	case svc.name == Elsewhere,
		v.endpoints.len() >= v.limits.Endpoints,
		len(svc.endpoints) >= v.limits.PerService,
		!exists && svc.candidates >= v.limits.Candidates:
		return nil
	}
	ep := newEndpoint(svc.name, k)
	ep.active = exists
	v.insert(svc, ep)
	v.endpoints.add(ep)
	return ep
}

// insert puts a new or restored endpoint below its service.
func (v *Inventory) insert(svc *service, ep *endpoint) {
	svc.endpoints[ep.key] = ep
	svc.sorted = nil
	if ep.active {
		v.answer(svc)
	} else {
		svc.candidates++
	}
}

// answer notes that a service exists.
func (v *Inventory) answer(svc *service) {
	if !svc.answered {
		svc.answered = true
		v.answered++
	}
}

// Services returns the rows of all services, by name.
func (v *Inventory) Services() []*v1.Service {
	v.mu.Lock()
	defer v.mu.Unlock()
	rows := make([]*v1.Service, 0, len(v.services))
	for _, svc := range v.services {
		rows = append(rows, svc.row())
	}
	slices.SortFunc(rows, func(a, b *v1.Service) int { return cmp.Compare(a.Name, b.Name) })
	return rows
}

// Endpoints returns the rows of one service ("" is all of them), by service, route and method. Candidates are among them
// only where asked for.
func (v *Inventory) Endpoints(name string, candidates bool) []*v1.Endpoint {
	v.mu.Lock()
	defer v.mu.Unlock()
	var names []string
	if name != "" {
		names = []string{name}
	} else {
		names = make([]string, 0, len(v.services))
		for n := range v.services {
			names = append(names, n)
		}
		slices.Sort(names)
	}
	rows := []*v1.Endpoint{}
	for _, n := range names {
		svc := v.services[n]
		if svc == nil {
			continue
		}
		for _, ep := range svc.ordered() {
			if ep.active || candidates {
				rows = append(rows, ep.row())
			}
		}
	}
	return rows
}

// Counts are the sizes of the inventory: services, active endpoints and candidates.
func (v *Inventory) Counts() (services, active, candidates int) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	for _, svc := range v.services {
		candidates += svc.candidates
	}
	return len(v.services), v.endpoints.len() - candidates, candidates
}
