// Package intake receives calls from agents and answers for them once the journal has them.
//
//	agent ──mTLS──▶ Publish ──Batch──▶ decode + validate ──▶ node, service ──▶ split by partition ──▶ Journal.Append
//	   ▲                                   │ malformed                                                   │ all returned
//	   └──────────── Receipt ◀─────────────┴─────────── rejected = count ◀────────────────── Receipt ◀───┘
//
// A stream is Hello, Welcome, then batches up to the credit (bytes without receipt) and health
// reports. What an agent says is checked; who it is comes from its certificate and overwrites what its
// calls say. Only a certificate for any node leaves that to Hello. One goroutine per stream takes its
// batches in order, so that the journal holds each agent's batches in the order of their seq.
//
// A batch or call that can never be stored is refused in the Receipt and counted: sending it again
// would not help. A journal that fails ends the stream with Unavailable instead, and the agent sends
// again: at least once. Duplicates are told apart by (agent, epoch, seq) where the journal is read.
//
// The table of agents is a view of this process, bounded, and gone with it.
package intake

import (
	"context"
	"crypto/tls"
	"errors"
	"sync"
	"time"

	v1 "github.com/spile/spile/proto/spile/v1"
)

// Journal stores records; Append returns when the record is durable.
type Journal interface {
	Append(ctx context.Context, partition int, r Record) error
}

// Record is one message of the journal: calls of one partition from one batch of one agent.
type Record struct {
	Agent   string
	Epoch   uint64
	Seq     uint64 // of the batch, which makes at most one record in a partition
	Payload []byte
	Count   uint32
	Min     time.Time
	Max     time.Time
}

const (
	// Partitions is fixed for good: it decides where the state of a service lives.
	Partitions = 64

	maxSeq = 1<<63 - 1

	defaultMaxBatchBytes = 4 << 20
	defaultCredit        = 1 << 20
	defaultMaxAgents     = 10_000
	defaultMaxAge        = 30 * 24 * time.Hour
	defaultMaxAhead      = time.Hour
)

// Config is what the collector's main knows. Journal, Key, Node, Speaker and Now are required.
type Config struct {
	Journal Journal
	// Key is the install key that agents hash with.
	Key      []byte
	KeyEpoch uint32
	// Collector is the name in Welcome.
	Collector string
	// Node is the name in a verified client certificate, whose error is PermissionDenied; Speaker the node that speaks, by that
	// name and Hello's, whose error is InvalidArgument. Both errors are told to the agent.
	Node    func(tls.ConnectionState) (string, error)
	Speaker func(certified, said string) (string, error)
	Now     func() time.Time
	// MaxBatchBytes bounds a payload; default 4 MiB.
	MaxBatchBytes uint32
	// Credit is what an agent may have in flight; default 1 MiB.
	Credit uint64
	// MaxAgents bounds the table of agents and the streams at once; default 10,000.
	MaxAgents int
	// MaxAge and MaxAhead bound a call's time around now; defaults 30 days and 1 hour.
	MaxAge   time.Duration
	MaxAhead time.Duration
	// Notice gets what belongs in the log. It may be nil.
	Notice func(error)
}

// Server is the agents' gRPC service.
type Server struct {
	v1.UnimplementedIngestServer
	cfg    Config
	coders sync.Pool

	mu     sync.Mutex
	agents map[string]*agent
	totals Counts
	stop   <-chan struct{}
}

// New makes a server; Serve runs it.
func New(cfg Config) (*Server, error) {
	if cfg.Journal == nil || len(cfg.Key) == 0 || cfg.Node == nil || cfg.Speaker == nil || cfg.Now == nil {
		return nil, errors.New("configure intake: journal, key, node, speaker and now are required")
	}
	setDefault(&cfg.MaxBatchBytes, defaultMaxBatchBytes)
	setDefault(&cfg.Credit, defaultCredit)
	setDefault(&cfg.MaxAgents, defaultMaxAgents)
	setDefault(&cfg.MaxAge, defaultMaxAge)
	setDefault(&cfg.MaxAhead, defaultMaxAhead)
	s := &Server{cfg: cfg, agents: map[string]*agent{}}
	s.coders.New = func() any { return newCoder() }
	return s, nil
}

func setDefault[T int | uint32 | uint64 | time.Duration](v *T, to T) {
	if *v == 0 {
		*v = to
	}
}
