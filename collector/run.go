package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/spile/spile/collector/cli"
	"github.com/spile/spile/collector/detect"
	"github.com/spile/spile/collector/identity"
	"github.com/spile/spile/collector/intake"
	"github.com/spile/spile/collector/journal"
	"github.com/spile/spile/collector/owner"
	"github.com/spile/spile/collector/query"
	"github.com/spile/spile/collector/siem"
)

const (
	socketName   = "query.sock"
	tokenName    = "token"
	startTimeout = 60 * time.Second
	// stopTimeout is for readers that do not read: theirs is the only call that may take long.
	stopTimeout = 2 * time.Second
)

// collector is an open server: everything that can fail because of how it was called has not failed.
type collector struct {
	world     world
	settings  settings
	log       *slog.Logger
	started   time.Time
	socket    string
	tokenFile string

	identity *identity.Authority
	journal  *journal.Journal
	intake   *intake.Server
	feeds    feeds
	owners   *owner.Owners
	rules    detect.Counters
	outlets  []*siem.Outlet
	query    *query.Server
	http     *http.Server

	local, remote, agents, web net.Listener
	undo                       []func()
	running                    atomic.Bool
	journalBytes               cached
}

func identityDir(data string) string { return filepath.Join(data, "identity") }

// openCollector takes the data directory and the ports. What it has taken is given back by close, or by run at its end.
func openCollector(ctx context.Context, w world, s settings, log *slog.Logger) (_ *collector, err error) {
	c := &collector{world: w, settings: s, log: log, started: w.Now(),
		feeds: feeds{calls: query.NewFeed(0), changes: query.NewChanges()}}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	if s.data, err = filepath.Abs(s.data); err != nil {
		return nil, fmt.Errorf("find the data directory: %w", err)
	}
	c.settings = s
	if err := openData(s.data); err != nil {
		return nil, err
	}
	if err := c.listen(); err != nil {
		return nil, err
	}
	if c.identity, err = identity.Open(identityDir(s.data), w.Now); err != nil {
		return nil, err
	}
	if err := c.linkToken(); err != nil {
		return nil, err
	}
	if err := c.openOutlets(); err != nil {
		return nil, err
	}
	if err := c.openJournal(ctx); err != nil {
		return nil, err
	}
	if c.owners, err = openOwners(c.journal, c.feeds, &c.rules, log); err != nil {
		return nil, err
	}
	if err := c.openServers(); err != nil {
		return nil, err
	}
	return c, nil
}

// listen takes the ports first: a mistake in them is the most likely one and costs nothing to find.
func (c *collector) listen() (err error) {
	for _, l := range []struct {
		flag, addr string
		to         *net.Listener
		conns      int
	}{
		{"agents-listen", c.settings.agentsListen, &c.agents, maxAgentConns},
		{"listen", c.settings.listen, &c.remote, maxQueryConns},
		{"http-listen", c.settings.httpListen, &c.web, maxHTTPConns},
	} {
		opened, err := net.Listen("tcp", l.addr)
		if err != nil {
			return fmt.Errorf("listen on %s: %w", l.addr, remedy(err, l.flag))
		}
		*l.to = limit(opened, l.conns)
		c.undo = append(c.undo, func() { (*l.to).Close() })
	}
	c.socket = filepath.Join(c.settings.data, socketName)
	if c.local, err = query.ListenSocket(c.socket); errors.Is(err, query.ErrInUse) {
		return fmt.Errorf("%w; stop it or choose another --data", err)
	} else if err != nil {
		return err
	}
	c.undo = append(c.undo, func() { c.local.Close() })
	return nil
}

func remedy(err error, flag string) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("another program has this port: stop it or choose another with --%s", flag)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("permission denied: choose a port above 1023 with --%s", flag)
	}
	return fmt.Errorf("%w: choose another address with --%s", err, flag)
}

// linkToken puts a name for the token beside the socket. The token itself is where only its owner looks.
func (c *collector) linkToken() error {
	c.tokenFile = filepath.Join(c.settings.data, tokenName)
	if err := relink(filepath.Join("identity", tokenName), c.tokenFile); err != nil {
		return fmt.Errorf("link the token: %w", err)
	}
	return nil
}

// relink makes link point to target, replacing an older link but nothing else.
func relink(target, link string) error {
	if info, err := os.Lstat(link); err == nil && info.Mode().Type() != os.ModeSymlink {
		return fmt.Errorf("%s is not a link: move it away", link)
	}
	next := fmt.Sprintf("%s.%d", link, os.Getpid())
	if err := os.Symlink(target, next); err != nil {
		return err
	}
	if err := os.Rename(next, link); err != nil {
		os.Remove(next)
		return err
	}
	return nil
}

func (c *collector) openOutlets() error {
	names := map[string]bool{}
	for _, cfg := range c.settings.outlets {
		o, err := siem.Open(cfg, siem.World{Stdout: c.world.Stdout, Version: c.world.Version})
		if err != nil {
			return cli.Usage("--sink: %v", err)
		}
		if names[o.Durable()] {
			return cli.Usage("--sink: two sinks are called %s: give them names (name=N)", o.Status().GetName())
		}
		names[o.Durable()] = true
		c.outlets = append(c.outlets, o)
	}
	return nil
}

func (c *collector) openJournal(ctx context.Context) (err error) {
	cfg := journal.Config{URL: c.settings.journalURL, MaxAge: c.settings.journalAge, MaxBytes: c.settings.journalMax,
		Warn: func(text string) { c.log.Warn("journal", "says", text) }}
	if cfg.URL == "" {
		cfg.Dir = filepath.Join(c.settings.data, "journal")
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if c.journal, err = journal.Open(ctx, cfg); err != nil {
		return err
	}
	c.undo = append(c.undo, c.journal.Close)
	return nil
}

func (c *collector) openServers() (err error) {
	c.intake, err = intake.New(intake.Config{
		Journal: appender{c.journal}, Key: c.identity.Key(), KeyEpoch: identity.KeyEpoch, Collector: c.world.hostname,
		Node: identity.NodeOf, Speaker: identity.Speaker, Now: c.world.Now, Notice: func(err error) { c.log.Error("intake", "error", err) },
	})
	if err != nil {
		return err
	}
	var creds credentials.TransportCredentials
	if !loopback(c.settings.listen) {
		// The agents' certificate without the question for one: here the token tells who asks.
		conf := c.identity.ServerTLS()
		conf.ClientAuth, conf.ClientCAs = tls.NoClientCert, nil
		creds = credentials.NewTLS(conf)
	}
	c.query, err = query.New(query.Config{
		Credentials: creds,
		Sources: query.Sources{
			Loading: c.loading, History: c.history, Services: c.owners.Services, Endpoints: c.owners.Endpoints, Findings: c.owners.Findings,
			Agents: c.intake.Agents, Status: c.status, Sinks: c.sinks,
		},
		Calls: c.feeds.calls, Changes: c.feeds.changes, Token: c.identity.Token(), TokenFile: c.tokenFile, Now: c.world.Now,
		Panicked: func(method string, value any, stack []byte) {
			c.log.Error("query failed", "method", method, "panic", value, "stack", string(stack))
		},
	})
	if err != nil {
		return err
	}
	metrics, err := registry(sources{status: c.status, agents: c.intake.Agents, sinks: c.sinks})
	if err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	c.http = newHTTP(c.settings.httpNames, metrics, c.ready, c.log)
	return nil
}

func (c *collector) queryAddr() string  { return c.remote.Addr().String() }
func (c *collector) agentsAddr() string { return c.agents.Addr().String() }
func (c *collector) httpAddr() string   { return c.web.Addr().String() }

func (c *collector) ready() error {
	if !c.running.Load() {
		return errors.New("not running")
	}
	if s := c.owners.Stats(); s.Stale > 0 {
		return fmt.Errorf("%d partitions belong to another collector", s.Stale)
	}
	if !c.owners.Ready() {
		return errLoading
	}
	return nil
}

// close gives back what open has taken, newest first.
func (c *collector) close() {
	for i := len(c.undo) - 1; i >= 0; i-- {
		c.undo[i]()
	}
	c.undo = nil
}

// run serves until ctx ends, then stops part by part in the order in which calls pass: what agents have sent and got a
// receipt for is in the journal, what the journal holds is there at the next start.
func (c *collector) run(ctx context.Context) error {
	defer c.close()
	failed := make(chan error, 8)
	var taking, working, answering group
	takingCtx, stopTaking := context.WithCancel(context.WithoutCancel(ctx))
	workingCtx, stopWorking := context.WithCancel(context.WithoutCancel(ctx))
	defer stopTaking()
	defer stopWorking()

	working.start(failed, func() error {
		c.owners.Run(workingCtx)
		return nil
	})
	for _, o := range c.outlets {
		working.start(failed, func() error { return o.Run(workingCtx, c.journal.Watch, owner.FindingPrefix) })
	}
	taking.start(failed, func() error { return c.intake.Serve(takingCtx, c.agents, c.identity.ServerTLS()) })
	answering.start(failed, func() error { return c.query.ServeLocal(c.local) })
	answering.start(failed, func() error { return c.query.ServeRemote(c.remote) })
	answering.start(failed, func() error { return serveHTTP(c.http, c.web) })
	c.linkSocket()
	c.running.Store(true)

	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	c.running.Store(false)
	stopTaking()
	taking.Wait()
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	c.query.Stop(end)
	if e := c.http.Shutdown(end); e != nil {
		c.http.Close()
	}
	answering.Wait()
	stopWorking()
	working.Wait()
	return err
}

// linkSocket makes the socket findable without --data. It is a convenience: where it fails, --data works. The first collector
// that runs has it.
func (c *collector) linkSocket() {
	if c.world.runDir == "" {
		return
	}
	link := filepath.Join(c.world.runDir, socketName)
	err := os.MkdirAll(c.world.runDir, 0o755)
	if to, e := os.Readlink(link); err == nil && e == nil && to != c.socket {
		if conn, e := net.DialTimeout("unix", link, time.Second); e == nil {
			conn.Close()
			err = fmt.Errorf("it leads to %s, where another collector answers", to)
		}
	}
	if err == nil {
		err = relink(c.socket, link)
	}
	if err != nil {
		c.log.Warn("the query socket has no link; verbs need --data", "link", link, "error", err)
		return
	}
	c.undo = append(c.undo, func() {
		if to, err := os.Readlink(link); err == nil && to == c.socket {
			os.Remove(link)
		}
	})
}

// group is goroutines that end together; the first error of any is told.
type group struct{ sync.WaitGroup }

func (g *group) start(failed chan<- error, run func() error) {
	g.Add(1)
	go func() {
		defer g.Done()
		if err := run(); err != nil {
			select {
			case failed <- err:
			default:
			}
		}
	}()
}
