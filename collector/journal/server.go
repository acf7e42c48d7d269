package journal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sys/unix"
)

// embedded is a NATS server inside this process: no listener, no signals, no log of its own.
type embedded struct {
	lock      *os.File
	dir       string
	found     []string // streams on disk before the start
	roomBytes int64    // most that EVENTS may take by default
	log       *serverLog
	stopping  chan struct{}
	healed    chan struct{} // closed when heal has ended; nil before it began

	mu   sync.Mutex
	nats *server.Server // heal puts a new one here
}

func startEmbedded(ctx context.Context, cfg Config) (_ *embedded, err error) {
	e := &embedded{dir: cfg.Dir, log: newServerLog(cfg.Warn), stopping: make(chan struct{})}
	defer func() {
		if err != nil {
			e.stop()
		}
	}()
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make journal directory %s: %w; choose another or make it writable for uid %d", cfg.Dir, err, os.Getuid())
	}
	if e.lock, err = lockDir(cfg.Dir); err != nil {
		return nil, err
	}
	if err := checkWritable(cfg.Dir); err != nil {
		return nil, err
	}
	if e.found, err = streamsOnDisk(cfg.Dir); err != nil {
		return nil, err
	}
	e.roomBytes = room(cfg.Dir)

	if err := e.serve(ctx); err != nil {
		return nil, err
	}
	e.healed = make(chan struct{})
	go e.heal()
	return e, nil
}

// serve starts a server on the directory.
func (e *embedded) serve(ctx context.Context) error {
	s, err := server.NewServer(&server.Options{
		ServerName: "spile", DontListen: true, NoSigs: true,
		JetStream: true, StoreDir: e.dir, SyncAlways: true, DisableJetStreamBanner: true,
		// The streams bound themselves. Left at 0 the engine would take three quarters of the free space as a quota and
		// refuse a stream whose limit is above it.
		JetStreamMaxStore: 1 << 60, JetStreamMaxMemory: 256 << 20,
		MaxPayload: 8 << 20, MaxPending: 256 << 20,
	})
	if err != nil {
		return fmt.Errorf("configure journal server: %w", err)
	}
	s.SetLoggerV2(e.log, false, false, false)
	e.mu.Lock()
	e.nats = s
	e.mu.Unlock()
	go s.Start()
	for !s.ReadyForConnections(200 * time.Millisecond) {
		if text := e.log.fatal(); text != "" {
			return fmt.Errorf("start journal in %s: %s", e.dir, text)
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("start journal in %s: %w", e.dir, err)
		}
	}
	if !s.JetStreamEnabled() {
		return fmt.Errorf("start journal in %s: %s", e.dir, cmp.Or(e.log.fatal(), e.log.last()))
	}
	return nil
}

// InProcessConn gives a client, also one that reconnects, a connection to the server of the moment.
func (e *embedded) InProcessConn() (net.Conn, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.nats.InProcessConn()
}

func (e *embedded) stop() {
	close(e.stopping)
	if e.healed != nil {
		<-e.healed
	}
	e.shutdown()
	if e.lock != nil {
		e.lock.Close()
	}
}

func (e *embedded) shutdown() {
	e.mu.Lock()
	s := e.nats
	e.mu.Unlock()
	if s != nil {
		s.Shutdown()
		s.WaitForShutdown()
	}
}

// lockDir takes the directory for this process. The lock is on the open file, so the kernel frees it however we end.
func lockDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock journal: %w; make %s writable for uid %d or choose another directory", err, dir, os.Getuid())
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		holder := make([]byte, 20)
		n, _ := f.ReadAt(holder, 0)
		return nil, fmt.Errorf("%w: %s belongs to the collector with pid %s; stop it or choose another directory",
			ErrLocked, dir, strings.TrimSpace(string(holder[:n])))
	}
	// The pid only serves the message above.
	if err := f.Truncate(0); err == nil {
		f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	return f, nil
}

// checkWritable asks before the engine does, whose answer would name no remedy.
func checkWritable(dir string) error {
	f, err := os.CreateTemp(dir, ".write-*")
	if err == nil {
		f.Close()
		err = os.Remove(f.Name())
	}
	if err != nil {
		return fmt.Errorf("write to journal directory: %w; make %s writable for uid %d or free space", err, dir, os.Getuid())
	}
	return nil
}

func streamsDir(dir string) string {
	return filepath.Join(dir, "jetstream", "$G", "streams")
}

func streamsOnDisk(dir string) ([]string, error) {
	list, err := os.ReadDir(streamsDir(dir))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list journal streams: %w; make %s readable for uid %d", err, dir, os.Getuid())
	}
	var names []string
	for _, d := range list {
		if d.Name() == events || d.Name() == state {
			names = append(names, d.Name())
		}
	}
	return names, nil
}

// checkStreams refuses to go on where the engine skipped a stream it could not read: making it anew would bury its data.
func (e *embedded) checkStreams(ctx context.Context, js jetstream.JetStream) error {
	for _, name := range e.found {
		_, err := js.Stream(ctx, name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			return fmt.Errorf("%w: stream %s in %s cannot be read (%s); restore it or move %s away to begin a new one",
				ErrCorrupt, name, e.dir, e.log.last(), filepath.Join(streamsDir(e.dir), name))
		}
		if err != nil {
			return fmt.Errorf("look up stream %s in %s: %w", name, e.dir, err)
		}
	}
	return nil
}

// room is half of what is free, so that the journal alone cannot fill a disk.
func room(dir string) int64 {
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil {
		return defaultBytes
	}
	return max(int64(st.Bavail)*int64(st.Bsize)/2, 64<<20)
}
