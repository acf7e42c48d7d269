package query

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	v1 "github.com/spile/spile/proto/spile/v1"
)

// candidate is the state of an endpoint that was never answered as existing.
const candidate = "candidate"

// snapshotLife is how long the pages after the first are cut from the list that the first was cut from.
const snapshotLife = 10 * time.Second

type inventory struct {
	v1.UnimplementedInventoryServer
	s    *Server
	last atomic.Pointer[snapshot]
}

// snapshot is the last list of endpoints that somebody pages through: to collect and order all of them for every page
// would cost a hundred times as much. A first page never comes from it.
type snapshot struct {
	at         time.Time
	service    string
	candidates bool
	rows       []*v1.Endpoint
}

func endpointKey(e *v1.Endpoint) key {
	return key{e.GetService(), e.GetRoute(), e.GetMethod(), e.GetId()}
}

// ListServices pages services by name.
func (i *inventory) ListServices(_ context.Context, req *v1.ListServicesRequest) (*v1.ListServicesResponse, error) {
	if err := i.s.loading(); err != nil {
		return nil, err
	}
	p, err := parsePage(req.GetPageSize(), req.GetPageToken(), "services")
	if err != nil {
		return nil, err
	}
	list, next := cut(i.s.cfg.Sources.Services(), func(s *v1.Service) key { return key{s.GetName()} }, p)
	return &v1.ListServicesResponse{Services: list, NextPageToken: next}, nil
}

// ListEndpoints pages endpoints by service, route, method and id.
func (i *inventory) ListEndpoints(_ context.Context, req *v1.ListEndpointsRequest) (*v1.ListEndpointsResponse, error) {
	if err := i.s.loading(); err != nil {
		return nil, err
	}
	p, err := parsePage(req.GetPageSize(), req.GetPageToken(), "endpoints", req.GetService(), strconv.FormatBool(req.GetCandidates()))
	if err != nil {
		return nil, err
	}
	list, next := cut(i.snapshot(req, p), endpointKey, p)
	return &v1.ListEndpointsResponse{Endpoints: list, NextPageToken: next}, nil
}

// snapshot collects the rows of a request in order.
func (i *inventory) snapshot(req *v1.ListEndpointsRequest, p page) []*v1.Endpoint {
	now := i.s.cfg.Now()
	if last := i.last.Load(); p.after != nil && last != nil && last.service == req.GetService() && last.candidates == req.GetCandidates() && now.Sub(last.at) < snapshotLife {
		return last.rows
	}
	all := i.s.cfg.Sources.Endpoints(req.GetService())
	shown := make([]*v1.Endpoint, 0, len(all))
	for _, e := range all {
		if req.GetCandidates() || e.GetState() != candidate {
			shown = append(shown, e)
		}
	}
	shown = ordered(shown, endpointKey)
	if len(shown) > p.size {
		i.last.Store(&snapshot{now, req.GetService(), req.GetCandidates(), shown})
	}
	return shown
}

type findings struct {
	v1.UnimplementedFindingsServer
	s *Server
}

// ListFindings pages findings by id, which never changes.
func (f *findings) ListFindings(_ context.Context, req *v1.ListFindingsRequest) (*v1.ListFindingsResponse, error) {
	if err := f.s.loading(); err != nil {
		return nil, err
	}
	p, err := parsePage(req.GetPageSize(), req.GetPageToken(), "findings", req.GetService(), req.GetRule())
	if err != nil {
		return nil, err
	}
	list, next := cut(selected(f.s.cfg.Sources.Findings(), req.GetService(), req.GetRule()), func(f *v1.Finding) key { return key{f.GetId()} }, p)
	return &v1.ListFindingsResponse{Findings: list, NextPageToken: next}, nil
}

// WatchFindings sends the findings as they are, then each change.
func (f *findings) WatchFindings(req *v1.WatchFindingsRequest, stream v1.Findings_WatchFindingsServer) error {
	if err := f.s.loading(); err != nil {
		return err
	}
	release, ok := f.s.follow()
	if !ok {
		return tooMany(cap(f.s.followers))
	}
	defer release()
	// Watching begins before the list is read, so that no change falls between the two.
	w := f.s.cfg.Changes.watch()
	defer f.s.cfg.Changes.leave(w)
	sent := map[string]uint64{}
	send := func(list []*v1.Finding) error {
		for _, finding := range selected(list, req.GetService(), req.GetRule()) {
			if rev, known := sent[finding.GetId()]; known && rev >= finding.GetRevision() {
				continue
			}
			sent[finding.GetId()] = finding.GetRevision()
			if err := stream.Send(finding); err != nil {
				return err
			}
		}
		return nil
	}
	now := slices.Clone(f.s.cfg.Sources.Findings())
	slices.SortFunc(now, func(a, b *v1.Finding) int {
		if c := a.GetFirstSeen().AsTime().Compare(b.GetFirstSeen().AsTime()); c != 0 {
			return c
		}
		return strings.Compare(a.GetId(), b.GetId())
	})
	if err := send(now); err != nil {
		return err
	}
	for {
		if err := send(w.take()); err != nil {
			return err
		}
		select {
		case <-w.wake:
		case <-stream.Context().Done():
			return status.FromContextError(stream.Context().Err()).Err()
		case <-f.s.stopping:
			return errStopping()
		}
	}
}

func selected(all []*v1.Finding, service, rule string) []*v1.Finding {
	if service == "" && rule == "" {
		return all
	}
	var out []*v1.Finding
	for _, f := range all {
		if (service == "" || f.GetService() == service) && (rule == "" || f.GetRule() == rule) {
			out = append(out, f)
		}
	}
	return out
}

type agents struct {
	v1.UnimplementedAgentsServer
	s *Server
}

// maxAgentsBytes is what a page of agents may hold: many long reports would not fit in a message.
const maxAgentsBytes = 8 << 20

// ListAgents pages agents by node.
func (a *agents) ListAgents(_ context.Context, req *v1.ListAgentsRequest) (*v1.ListAgentsResponse, error) {
	p, err := parsePage(req.GetPageSize(), req.GetPageToken(), "agents")
	if err != nil {
		return nil, err
	}
	all, keyOf := a.s.cfg.Sources.Agents(), func(a *v1.Agent) key { return key{a.GetNode()} }
	list, next := cut(all, keyOf, p)
	bytes := 0
	for i, one := range list {
		if bytes += proto.Size(one); bytes > maxAgentsBytes && i > 0 {
			p.size = i
			list, next = cut(all, keyOf, p)
			break
		}
	}
	return &v1.ListAgentsResponse{Agents: list, NextPageToken: next}, nil
}

// GetStatus returns the collector's own account.
func (a *agents) GetStatus(context.Context, *v1.GetStatusRequest) (*v1.GetStatusResponse, error) {
	return a.s.cfg.Sources.Status(), nil
}

type sinks struct {
	v1.UnimplementedSinksServer
	s *Server
}

// ListSinks returns every configured sink, by name.
func (k *sinks) ListSinks(context.Context, *v1.ListSinksRequest) (*v1.ListSinksResponse, error) {
	list := slices.Clone(k.s.cfg.Sources.Sinks())
	slices.SortFunc(list, func(x, y *v1.Sink) int { return strings.Compare(x.GetName(), y.GetName()) })
	return &v1.ListSinksResponse{Sinks: list}, nil
}

// loading refuses what would be answered with a part of the whole. Followers of findings are refused as well: what is restored
// after they came is no change, and they would never hear of it.
func (s *Server) loading() error {
	if err := s.cfg.Sources.Loading(); err != nil {
		return status.Error(codes.Unavailable, err.Error())
	}
	return nil
}

func tooMany(limit int) error {
	return status.Errorf(codes.ResourceExhausted, "%d readers follow already; end one of them", limit)
}

func errStopping() error {
	return status.Error(codes.Unavailable, "the collector is stopping")
}
