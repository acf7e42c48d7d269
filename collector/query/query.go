// Package query answers people and programs: the gRPC services Events, Inventory, Findings, Agents and Sinks.
//
// It owns no data. What it shows comes from the functions of Sources, which main wires to the rooms that own it; what it
// holds itself is the state of its readers, all of it bounded:
//
//	owner ──Feed.Publish(Batch)──▶ one bounded queue per follower ──▶ GetEvents
//	owner ──Changes.Publish(Finding)──▶ newest revision per id, per watcher ──▶ WatchFindings
//	journal ──Sources.History──▶ GetEvents (what was before the reader came)
//
// A slow reader of calls loses calls and is told how many (Lag); a slow watcher of findings loses only revisions that a
// newer one replaced. Nobody upstream ever waits for a reader.
//
// The same services stand behind two doors. The unix socket is for those who can open the file (mode 0600); the TCP
// listener asks for the token of the data directory.
package query

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	v1 "github.com/spile/spile/proto/spile/v1"
)

const (
	maxRequestBytes      = 64 << 10
	maxHeaderBytes       = 16 << 10
	maxStreamsPerConn    = 64
	handshakeTimeout     = 5 * time.Second
	keepaliveInterval    = 30 * time.Second
	minClientPing        = 10 * time.Second
	defaultFollowers     = 64
	defaultFollowerCalls = 8192
)

// Batch is what the journal holds at one position: calls with their routes. It is shared and must not be changed.
type Batch struct {
	Partition uint32
	Seq       uint64
	Calls     []*v1.Call
}

// Sources are the owners of what is shown. Each function is safe for concurrent use and returns values that nobody
// changes afterwards.
type Sources struct {
	// Loading says why services, endpoints and findings are not all there yet; nil when they are.
	Loading func() error
	// History hands over what the journal stored from stored on, in its order, until the end or until yield is false.
	History   func(ctx context.Context, stored time.Time, yield func(Batch) bool) error
	Services  func() []*v1.Service
	Endpoints func(service string) []*v1.Endpoint
	Findings  func() []*v1.Finding
	Agents    func() []*v1.Agent
	Status    func() *v1.GetStatusResponse
	Sinks     func() []*v1.Sink
}

// Config is what a Server needs.
type Config struct {
	Sources Sources
	Calls   *Feed
	Changes *Changes
	// Token opens the TCP door; TokenFile is where a user finds it.
	Token     string
	TokenFile string
	// Credentials encrypt the TCP door; nil serves clear text, which is meant for loopback only.
	Credentials credentials.TransportCredentials
	Now         func() time.Time
	// Panicked hears of a handler that panicked, once per panic.
	Panicked func(method string, value any, stack []byte)
	// Followers is how many streams may stay open at once (0 = 64).
	Followers int
}

// Server is the query API behind its two doors.
type Server struct {
	cfg       Config
	local     *grpc.Server
	remote    *grpc.Server
	health    *health.Server
	followers chan struct{}
	stopping  chan struct{}
	stopOnce  sync.Once
}

// New builds a server; Serve* open its doors.
func New(cfg Config) (*Server, error) {
	switch {
	case cfg.Calls == nil || cfg.Changes == nil:
		return nil, errors.New("build query server: no feed")
	case cfg.Token == "":
		return nil, errors.New("build query server: no token")
	case cfg.Now == nil:
		return nil, errors.New("build query server: no clock")
	}
	if cfg.Followers == 0 {
		cfg.Followers = defaultFollowers
	}
	if cfg.Panicked == nil {
		cfg.Panicked = func(string, any, []byte) {}
	}
	s := &Server{
		cfg: cfg, health: health.NewServer(),
		followers: make(chan struct{}, cfg.Followers), stopping: make(chan struct{}),
	}
	guard := door{tokenFile: cfg.TokenFile, token: []byte(cfg.Token), panicked: cfg.Panicked}
	s.local = s.build(grpc.ChainUnaryInterceptor(guard.recoverUnary), grpc.ChainStreamInterceptor(guard.recoverStream))
	opts := []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(guard.recoverUnary, guard.tokenUnary),
		grpc.ChainStreamInterceptor(guard.recoverStream, guard.tokenStream),
	}
	if cfg.Credentials != nil {
		opts = append(opts, grpc.Creds(cfg.Credentials))
	}
	s.remote = s.build(opts...)
	return s, nil
}

func (s *Server) build(opts ...grpc.ServerOption) *grpc.Server {
	g := grpc.NewServer(append(opts,
		grpc.MaxRecvMsgSize(maxRequestBytes),
		grpc.MaxHeaderListSize(maxHeaderBytes),
		grpc.MaxConcurrentStreams(maxStreamsPerConn),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: keepaliveInterval}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minClientPing, PermitWithoutStream: true}),
	)...)
	v1.RegisterEventsServer(g, &events{s: s})
	v1.RegisterInventoryServer(g, &inventory{s: s})
	v1.RegisterFindingsServer(g, &findings{s: s})
	v1.RegisterAgentsServer(g, &agents{s: s})
	v1.RegisterSinksServer(g, &sinks{s: s})
	healthv1.RegisterHealthServer(g, s.health)
	reflection.Register(g)
	return g
}

// ServeLocal answers on a listener that the operating system guards.
func (s *Server) ServeLocal(l net.Listener) error { return s.local.Serve(l) }

// ServeRemote answers on a listener that anybody may reach: every call needs the token.
func (s *Server) ServeRemote(l net.Listener) error { return s.remote.Serve(l) }

// Stop tells followers to come back later, lets short calls end and cuts what is left when ctx is done.
func (s *Server) Stop(ctx context.Context) {
	s.stopOnce.Do(func() { close(s.stopping) })
	s.health.Shutdown()
	done := make(chan struct{})
	go func() {
		s.remote.GracefulStop()
		s.local.GracefulStop()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		s.remote.Stop()
		s.local.Stop()
		<-done
	}
}

// follow takes one of the bounded places for a stream that stays open.
func (s *Server) follow() (release func(), ok bool) {
	select {
	case s.followers <- struct{}{}:
		return func() { <-s.followers }, true
	default:
		return nil, false
	}
}
