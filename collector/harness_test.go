package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spile/spile/collector/cli"
	"github.com/spile/spile/collector/identity"
	"github.com/spile/spile/proto/columns"
	v1 "github.com/spile/spile/proto/spile/v1"
)

// buffer is written and read at once.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func testWorld(stdin string, args ...string) (world, *buffer, *buffer) {
	out, errs := &buffer{}, &buffer{}
	return world{
		World: cli.World{Stdin: strings.NewReader(stdin), Stdout: out, Stderr: errs, Args: args, Now: time.Now, Version: "test"},
		uid:   os.Geteuid(), hostname: "host", keepPipe: func() {},
	}, out, errs
}

// spile runs a verb to its end.
func spile(t testing.TB, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	w, out, errs := testWorld("", args...)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	code = run(ctx, w)
	return code, out.String(), errs.String()
}

// ok runs a verb that must work.
func ok(t testing.TB, args ...string) string {
	t.Helper()
	code, out, errs := spile(t, args...)
	if code != 0 {
		t.Fatalf("spile %s: exit %d: %s", strings.Join(args, " "), code, errs)
	}
	return out
}

// running is a collector inside this process.
type running struct {
	t                  testing.TB
	data               string
	cancel             context.CancelFunc
	done               chan int
	out, errs          *buffer
	query, agents, web string
}

var addresses = regexp.MustCompile(`agents=(\S+) query=(\S+) http=(\S+)`)

func start(t testing.TB, data string, args ...string) *running {
	t.Helper()
	w, out, errs := testWorld("", append([]string{"collector", "--data", data, "--listen", "127.0.0.1:0", "--agents-listen", "127.0.0.1:0",
		"--http-listen", "127.0.0.1:0"}, args...)...)
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{t: t, data: data, cancel: cancel, done: make(chan int, 1), out: out, errs: errs}
	go func() { r.done <- run(ctx, w) }()
	t.Cleanup(func() { r.stop() })
	until(t, "the collector answers", func() bool {
		m := addresses.FindStringSubmatch(errs.String())
		if m == nil {
			select {
			case code := <-r.done:
				t.Fatalf("the collector ended with %d: %s", code, errs)
			default:
			}
			return false
		}
		r.agents, r.query, r.web = m[1], m[2], m[3]
		code, _, _ := spile(t, "status", "--data", data)
		return code == 0
	})
	return r
}

func (r *running) stop() int {
	r.t.Helper()
	r.cancel()
	select {
	case code := <-r.done:
		r.done <- code
		return code
	case <-time.After(30 * time.Second):
		r.t.Fatal("the collector does not stop")
		return -1
	}
}

// agent is what spile-agent is to a collector, made of the wire only.
type agent struct {
	t      testing.TB
	conn   *grpc.ClientConn
	stream v1.Ingest_PublishClient
	epoch  uint64
	seq    uint64
}

func (r *running) agent(node string, epoch uint64) *agent {
	r.t.Helper()
	a, err := r.connect(r.enroll(node), &v1.Hello{Version: "fake", Epoch: epoch, Kernel: "6.18"})
	if err != nil {
		r.t.Fatal(err)
	}
	return a
}

// enroll makes a certificate as a person does.
func (r *running) enroll(node string) identity.Bundle {
	r.t.Helper()
	dir := filepath.Join(r.t.TempDir(), "bundle")
	ok(r.t, "agents", "enroll", node, "--data", r.data, "--out", dir)
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			r.t.Fatal(err)
		}
		return b
	}
	return identity.Bundle{Cert: read("agent.crt"), Key: read("agent.key"), CA: read("ca.crt")}
}

// connect says Hello; its error is the collector's answer.
func (r *running) connect(bundle identity.Bundle, hello *v1.Hello) (*agent, error) {
	r.t.Helper()
	conf, err := bundle.ClientTLS()
	if err != nil {
		r.t.Fatal(err)
	}
	conn, err := grpc.NewClient("passthrough:///"+r.agents, grpc.WithTransportCredentials(credentials.NewTLS(conf)))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	stream, err := v1.NewIngestClient(conn).Publish(context.Background())
	if err != nil {
		r.t.Fatal(err)
	}
	a := &agent{t: r.t, conn: conn, stream: stream, epoch: hello.Epoch}
	a.send(&v1.PublishRequest{Of: &v1.PublishRequest_Hello{Hello: hello}})
	res, err := stream.Recv()
	if err == nil && len(res.GetWelcome().GetKey()) != 32 {
		r.t.Fatalf("welcome: %v", res)
	}
	return a, err
}

func (a *agent) send(m *v1.PublishRequest) {
	a.t.Helper()
	if err := a.stream.Send(m); err != nil {
		a.t.Fatal(err)
	}
}

// calls sends one batch and waits for its receipt.
func (a *agent) calls(calls ...*v1.Call) *v1.Receipt {
	a.t.Helper()
	a.seq++
	return a.batch(a.seq, calls...)
}

func (a *agent) batch(seq uint64, calls ...*v1.Call) *v1.Receipt {
	a.t.Helper()
	enc, err := columns.NewEncoder()
	if err != nil {
		a.t.Fatal(err)
	}
	payload, err := enc.Encode(nil, calls)
	if err != nil {
		a.t.Fatal(err)
	}
	a.send(&v1.PublishRequest{Of: &v1.PublishRequest_Batch{Batch: &v1.Batch{Epoch: a.epoch, Seq: seq, Count: uint32(len(calls)), Payload: payload, Sealed: timestamppb.Now()}}})
	res, err := a.stream.Recv()
	if err != nil {
		a.t.Fatal(err)
	}
	return res.GetReceipt()
}

func (a *agent) health(h *v1.Health) {
	a.t.Helper()
	h.Time, h.Version, h.Kernel, h.Epoch = timestamppb.Now(), "fake", "6.18", a.epoch
	a.send(&v1.PublishRequest{Of: &v1.PublishRequest_Health{Health: h}})
}

// shopCall is a call to https://shop.example with credentials; change what a test is about.
func shopCall(id string, path string, status uint32) *v1.Call {
	size, kind := uint64(512), "application/json"
	return &v1.Call{
		Id: strings.Repeat("0", 32-len(id)) + id, Time: timestamppb.New(time.Now().Truncate(time.Microsecond)), Duration: durationpb.New(2 * time.Millisecond),
		Observed: v1.Observed_OBSERVED_BOTH, Protocol: "http/1.1", Scheme: "https", Method: "GET", Authority: "shop.example:8443", Path: path, StatusCode: status,
		Source:      &v1.Peer{Address: "10.0.0.7", Port: 51234, Process: "curl", Pid: 7},
		Destination: &v1.Peer{Address: "10.0.0.9", Port: 8443, Process: "nginx", Pid: 9},
		Auth:        &v1.Auth{Scheme: "bearer", Location: "header", Credential: "h:0123456789abcdef01234567"},
		Response:    &v1.Content{Bytes: &size, ContentType: &kind},
	}
}

func lines[T any](t testing.TB, out string) []T {
	t.Helper()
	var all []T
	for l := range strings.Lines(out) {
		var v T
		if err := json.Unmarshal([]byte(l), &v); err != nil {
			t.Fatalf("%v in %q", err, l)
		}
		all = append(all, v)
	}
	return all
}

func until(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// batchOf makes calls to paths, numbered from first; every third carries its credential in the URL, and /nothing is not found.
func batchOf(first int, paths []string) []*v1.Call {
	var out []*v1.Call
	for i, p := range paths {
		c := shopCall(fmt.Sprintf("%x", first+i+1), p, 200)
		if p == "/nothing" {
			c.StatusCode = 404
		}
		if (first+i)%3 == 0 {
			c.Auth.Location = "query"
		}
		coverage := float64((first+i)*37%1001) / 1000
		c.Destination.Coverage = &coverage
		out = append(out, c)
	}
	return out
}
