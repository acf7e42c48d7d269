package intake

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"runtime/debug"
	"time"

	v1 "github.com/spile/spile/proto/spile/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
)

const (
	// frameBytes is room for what surrounds a payload in a message.
	frameBytes  = 64 << 10
	stopTimeout = 5 * time.Second
	// streamsPerAgent allows one stream, a second that takes over, and a health check.
	streamsPerAgent = 4
	windowBytes     = 256 << 10
)

// Serve accepts agents until ctx ends, then lets batches in work finish.
func (s *Server) Serve(ctx context.Context, l net.Listener, conf *tls.Config) error {
	g := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(conf)),
		grpc.MaxRecvMsgSize(int(s.cfg.MaxBatchBytes)+frameBytes),
		grpc.MaxConcurrentStreams(streamsPerAgent),
		// Windows of the size of the credit would cost megabytes for each idle agent.
		grpc.InitialWindowSize(windowBytes),
		grpc.InitialConnWindowSize(windowBytes),
		grpc.ConnectionTimeout(10*time.Second),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.StreamInterceptor(s.recoverStream),
	)
	v1.RegisterIngestServer(g, s)
	stopped := make(chan struct{})
	s.mu.Lock()
	s.stop = ctx.Done()
	s.mu.Unlock()
	go func() {
		defer close(stopped)
		<-ctx.Done()
		// Streams end themselves between two batches (see Publish); this waits for that.
		force := time.AfterFunc(stopTimeout, g.Stop)
		defer force.Stop()
		g.GracefulStop()
	}()
	err := g.Serve(l)
	if ctx.Err() != nil {
		<-stopped
		return nil
	}
	return fmt.Errorf("serve agents on %s: %w", l.Addr(), err)
}

// recoverStream turns a panic into a status: one agent's stream must not end those of the others.
func (s *Server) recoverStream(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	defer func() {
		if r := recover(); r != nil {
			s.panicked(r)
			err = status.Error(codes.Internal, "the collector failed on this stream; its log says more")
		}
	}()
	return handler(srv, stream)
}

func (s *Server) panicked(r any) {
	s.count(func(c *Counts) { c.Panics++ })
	if s.cfg.Notice != nil {
		s.cfg.Notice(fmt.Errorf("panic while taking calls: %v\n%s", r, debug.Stack()))
	}
}
