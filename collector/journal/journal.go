package journal

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

var (
	// ErrLocked: another process has the directory open.
	ErrLocked = errors.New("journal is in use")
	// ErrCorrupt: a stream is on disk but the engine cannot read it.
	ErrCorrupt = errors.New("journal is damaged")
	// ErrStale: someone else has committed since the revision given; nothing of the commit was stored.
	ErrStale = errors.New("commit is stale")
	// ErrTooLarge: a record or value above MaxValueBytes, or a commit above MaxEntries.
	ErrTooLarge = errors.New("too large for the journal")
	// ErrFull: the disk has no room. When there is, the embedded server goes on by itself.
	ErrFull = errors.New("no space left for the journal")
)

const (
	events = "EVENTS"
	state  = "STATE"

	// MaxValueBytes bounds a record or a value: an agent's batch has at most 4 MiB.
	MaxValueBytes = 6 << 20
	// MaxEntries is what fits in one commit beside meta: the engine takes 1,000 messages in an atomic batch.
	MaxEntries = 999

	defaultAge       = 72 * time.Hour
	defaultBytes     = int64(8 << 30)
	requestTimeout   = 30 * time.Second
	stateTimeout     = 2 * time.Minute // a commit of 1,000 entries is 1,000 syncs
	commitsInFlight  = 16              // of the 50 open batches that the engine allows per stream
	tenant           = "default"
	replicasExternal = 3
)

// Config says where the journal lives. Exactly one of Dir and URL is set.
type Config struct {
	// Dir holds the embedded server's files, mode 0700.
	Dir string
	// URL names an external cluster, for example "nats://a:4222,nats://b:4222".
	URL string
	// Options for the external connection: credentials, TLS.
	Options []nats.Option
	// Replicas of the streams on an external cluster; 0 is 3.
	Replicas int
	// MaxAge and MaxBytes bound EVENTS. 0 is 72 h, and 8 GiB or half of what is free on the disk, whichever is less.
	MaxAge   time.Duration
	MaxBytes int64
	// Warn hears what the embedded server says in warnings and errors. It must not block.
	Warn func(line string)
}

// Journal is safe for concurrent use.
type Journal struct {
	cfg     Config
	server  *embedded // nil when external
	conn    *nats.Conn
	js      jetstream.JetStream
	events  jetstream.Stream
	state   jetstream.Stream
	commits chan struct{} // bounds the batches in flight
	closing sync.Once
}

// Open starts or reaches the engine and makes the streams. The caller owns the result and closes it.
func Open(ctx context.Context, cfg Config) (*Journal, error) {
	if (cfg.Dir == "") == (cfg.URL == "") {
		return nil, errors.New("open journal: give either a directory or a URL")
	}
	j := &Journal{cfg: cfg, commits: make(chan struct{}, commitsInFlight)}
	if err := j.open(ctx); err != nil {
		j.Close()
		return nil, err
	}
	return j, nil
}

func (j *Journal) open(ctx context.Context) (err error) {
	opts := append([]nats.Option{nats.Name("spile"), nats.MaxReconnects(-1)}, j.cfg.Options...)
	if j.cfg.Dir != "" {
		if j.server, err = startEmbedded(ctx, j.cfg); err != nil {
			return err
		}
		opts = append(opts, nats.InProcessServer(j.server), nats.ReconnectWait(restartPoll/4), nats.ReconnectBufSize(-1))
	}
	if j.conn, err = nats.Connect(j.cfg.URL, opts...); err != nil {
		return fmt.Errorf("connect to journal %s: %w", j.where(), err)
	}
	if j.js, err = jetstream.New(j.conn, jetstream.WithDefaultTimeout(requestTimeout)); err != nil {
		return fmt.Errorf("use JetStream of journal %s: %w", j.where(), err)
	}
	if j.server != nil {
		if err := j.server.checkStreams(ctx, j.js); err != nil {
			return err
		}
	}
	return j.makeStreams(ctx)
}

func (j *Journal) makeStreams(ctx context.Context) (err error) {
	replicas, maxBytes, maxAge := 1, j.cfg.MaxBytes, j.cfg.MaxAge
	if j.server == nil {
		if replicas = j.cfg.Replicas; replicas == 0 {
			replicas = replicasExternal
		}
	}
	if maxAge == 0 {
		maxAge = defaultAge
	}
	if maxBytes == 0 {
		maxBytes = defaultBytes
		if j.server != nil {
			maxBytes = min(maxBytes, j.server.roomBytes)
		}
	}
	j.events, err = j.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: events, Subjects: []string{"ev.*.*"}, Storage: jetstream.FileStorage, Replicas: replicas,
		Retention: jetstream.LimitsPolicy, Discard: jetstream.DiscardOld, MaxAge: maxAge, MaxBytes: maxBytes,
		AllowDirect: true, Duplicates: time.Second,
	})
	if err != nil {
		return fmt.Errorf("make stream %s of journal %s: %w", events, j.where(), err)
	}
	j.state, err = j.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: state, Subjects: []string{"st.*.>"}, Storage: jetstream.FileStorage, Replicas: replicas,
		Retention: jetstream.LimitsPolicy, MaxMsgsPerSubject: 2, AllowAtomicPublish: true,
		AllowDirect: true, Duplicates: time.Second,
	})
	if err != nil {
		return fmt.Errorf("make stream %s of journal %s: %w", state, j.where(), err)
	}
	return nil
}

func (j *Journal) where() string {
	if j.cfg.Dir != "" {
		return j.cfg.Dir
	}
	return "at " + j.cfg.URL
}

// Close ends every Read, Scan and Watch, then stops the embedded server. What was acknowledged is on disk before.
func (j *Journal) Close() {
	j.closing.Do(func() {
		if j.conn != nil {
			j.conn.Close()
		}
		if j.server != nil {
			j.server.stop()
		}
	})
}

// Bytes is what both streams occupy.
func (j *Journal) Bytes(ctx context.Context) (uint64, error) {
	var sum uint64
	for _, s := range []jetstream.Stream{j.events, j.state} {
		info, err := s.Info(ctx)
		if err != nil {
			return 0, fmt.Errorf("measure journal %s: %w", j.where(), err)
		}
		sum += info.State.Bytes
	}
	return sum, nil
}

// wrap names the journal in an error. Where the embedded server has said why it cannot write, that is the error: all that a
// client sees of it is a deadline.
func (j *Journal) wrap(doing string, err error) error {
	if err == nil {
		return nil
	}
	if j.server != nil {
		if why := j.server.failure(); why != nil {
			return fmt.Errorf("%s in journal: %w", doing, why)
		}
	}
	return fmt.Errorf("%s in journal %s: %w", doing, j.where(), err)
}

// writable fails at once where waiting for the engine would only end in a deadline.
func (j *Journal) writable() error {
	if j.server == nil {
		return nil
	}
	return j.server.failure()
}
