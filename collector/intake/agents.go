package intake

import (
	"maps"
	"slices"
	"time"

	"github.com/spile/spile/proto/columns"
	v1 "github.com/spile/spile/proto/spile/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Counts is intake's account since the start of the process.
type Counts struct {
	Batches          uint64
	MalformedBatches uint64
	// Calls are those stored, each once: those of a batch that came again, because its receipt did not arrive, are CallsAgain.
	Calls      uint64
	CallsAgain uint64
	Refused    uint64
	// Records are messages written to the journal.
	Records         uint64
	Bytes           uint64
	JournalErrors   uint64
	Panics          uint64
	UnknownMessages uint64
	// RefusedStreams came when the table of agents was full of connected ones.
	RefusedStreams uint64
	// HealthRowsDropped are entries of agents' reports beyond what is kept of one.
	HealthRowsDropped uint64
	// HealthAltered reports had a text cut or an impossible figure corrected.
	HealthAltered uint64
	Connected     uint64
}

// Proto is the form of GetStatus.
func (c Counts) Proto() []*v1.Count {
	count := func(name string, value uint64, lost bool) *v1.Count {
		return &v1.Count{Stage: "intake", Name: name, Value: value, Lost: lost}
	}
	return []*v1.Count{
		count("batches", c.Batches, false), count("calls", c.Calls, false),
		count("calls_again", c.CallsAgain, false), count("records", c.Records, false),
		count("bytes", c.Bytes, false), count("connected", c.Connected, false),
		count("calls_refused", c.Refused, true), count("batches_malformed", c.MalformedBatches, false),
		count("journal_errors", c.JournalErrors, false), count("panics", c.Panics, false),
		count("messages_unknown", c.UnknownMessages, false), count("streams_refused", c.RefusedStreams, false),
		count("health_rows_dropped", c.HealthRowsDropped, true), count("health_altered", c.HealthAltered, false),
	}
}

// agent is one node as this process knows it; fields are under Server.mu.
type agent struct {
	node    string
	streams int
	since   time.Time
	seen    time.Time
	calls   uint64
	batches uint64
	refused uint64
	skew    time.Duration
	health  *v1.Health
	taken   taken
}

// Counts is a snapshot.
func (s *Server) Counts() Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.totals
	for _, a := range s.agents {
		if a.streams > 0 {
			c.Connected++
		}
	}
	return c
}

// Agents lists the nodes seen since the start of the process, by name. Their reports are for reading.
func (s *Server) Agents() []*v1.Agent {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*v1.Agent, 0, len(s.agents))
	for _, name := range slices.Sorted(maps.Keys(s.agents)) {
		a := s.agents[name]
		out := &v1.Agent{Node: a.node, Connected: a.streams > 0, LastSeen: timestamppb.New(a.seen), Calls: a.calls,
			Batches: a.batches, Refused: a.refused, SkewSeconds: a.skew.Seconds()}
		if a.streams > 0 {
			out.ConnectedSince = timestamppb.New(a.since)
		}
		// A report is replaced, never changed.
		out.Health = a.health
		list = append(list, out)
	}
	return list
}

func (s *Server) count(f func(*Counts)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.totals)
}

func (s *Server) connect(node string) (*agent, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.agents[node]
	if a == nil {
		if len(s.agents) >= s.cfg.MaxAgents && !s.forget() {
			s.totals.RefusedStreams++
			return nil, status.Errorf(codes.ResourceExhausted, "%d agents are connected, which is this collector's limit", len(s.agents))
		}
		a = &agent{node: node}
		s.agents[node] = a
	}
	now := s.cfg.Now()
	if a.streams == 0 {
		a.since = now
	}
	a.streams++
	a.seen = now
	return a, nil
}

// forget makes room by dropping the agent that has been away longest.
func (s *Server) forget() bool {
	var oldest *agent
	for _, a := range s.agents {
		if a.streams == 0 && (oldest == nil || a.seen.Before(oldest.seen)) {
			oldest = a
		}
	}
	if oldest == nil {
		return false
	}
	delete(s.agents, oldest.node)
	return true
}

func (s *Server) disconnect(a *agent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a.streams--
	a.seen = s.cfg.Now()
}

func (s *Server) batchDone(a *agent, b *v1.Batch, stored, refused uint32, records int, why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	refused = min(refused, columns.MaxCalls) // A made-up count must not make up an account.
	a.seen = s.cfg.Now()
	s.totals.Batches++
	if a.taken.first(b.Epoch, b.Seq) {
		a.batches++
		a.calls += uint64(stored)
		a.refused += uint64(refused)
		s.totals.Calls += uint64(stored)
		s.totals.Refused += uint64(refused)
	} else {
		s.totals.CallsAgain += uint64(stored)
	}
	s.totals.Records += uint64(records)
	s.totals.Bytes += uint64(len(b.Payload))
	if why != nil && stored == 0 {
		s.totals.MalformedBatches++
	}
}
