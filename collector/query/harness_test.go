package query

import (
	"context"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/spile/spile/proto/spile/v1"
)

const token = "0123456789abcdef"

// world is what a collector would own.
type world struct {
	mu        sync.Mutex
	stored    []storedBatch
	services  []*v1.Service
	endpoints []*v1.Endpoint
	findings  []*v1.Finding
	boom      bool
	loading   error
}

type storedBatch struct {
	at time.Time
	b  Batch
}

func (w *world) history(_ context.Context, since time.Time, yield func(Batch) bool) error {
	w.mu.Lock()
	all := append([]storedBatch(nil), w.stored...)
	w.mu.Unlock()
	for _, s := range all {
		if !s.at.Before(since) && !yield(s.b) {
			return nil
		}
	}
	return nil
}

func (w *world) store(at time.Time, seq uint64, calls ...*v1.Call) Batch {
	b := Batch{Partition: 7, Seq: seq, Calls: calls}
	w.mu.Lock()
	w.stored = append(w.stored, storedBatch{at, b})
	w.mu.Unlock()
	return b
}

func call(id, path string, status uint32, at time.Time) *v1.Call {
	return &v1.Call{Id: id, Time: timestamppb.New(at), Method: "GET", Path: path, Route: path, StatusCode: status, Service: "shop"}
}

// serve runs a server on a unix socket and a TCP port and returns connections to both.
func serve(t *testing.T, w *world, change func(*Config)) (s *Server, local, remote *grpc.ClientConn) {
	t.Helper()
	cfg := Config{
		Calls: NewFeed(0), Changes: NewChanges(), Token: token, TokenFile: "/data/token", Now: time.Now,
		Sources: Sources{
			Loading: func() error {
				w.mu.Lock()
				defer w.mu.Unlock()
				return w.loading
			},
			History:   w.history,
			Services:  func() []*v1.Service { return w.services },
			Endpoints: func(string) []*v1.Endpoint { return w.endpoints },
			Findings: func() []*v1.Finding {
				w.mu.Lock()
				defer w.mu.Unlock()
				return w.findings
			},
			Agents: func() []*v1.Agent {
				if w.boom {
					panic("boom")
				}
				return []*v1.Agent{{Node: "n2"}, {Node: "n1"}}
			},
			Status: func() *v1.GetStatusResponse { return &v1.GetStatusResponse{Version: "test"} },
			Sinks:  func() []*v1.Sink { return nil },
		},
	}
	if change != nil {
		change(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	sock := filepath.Join(t.TempDir(), "query.sock")
	ul, err := ListenSocket(sock)
	if err != nil {
		t.Fatal(err)
	}
	tl, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go s.ServeLocal(ul)
	go s.ServeRemote(tl)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		s.Stop(ctx)
	})
	return s, dial(t, "unix:"+sock), dial(t, "passthrough:///"+tl.Addr().String())
}

func dial(t *testing.T, target string) *grpc.ClientConn {
	t.Helper()
	c, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func bounded(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func withToken(ctx context.Context, tok string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+tok)
}

// leave makes a socket file that nobody listens on.
func leave(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
}
