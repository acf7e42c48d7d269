package intake

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/spile/spile/proto/spile/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// selfSigned is enough for both sides here; who may connect is identity's business and tested there.
func selfSigned(t *testing.T) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, DNSNames: []string{"test"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return &tls.Config{MinVersion: tls.VersionTLS13, ServerName: "test", RootCAs: pool, ClientCAs: pool, NextProtos: []string{"h2"},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

// serve starts a server and returns a client and what stops the server.
func serve(t *testing.T, s *Server) (client v1.IngestClient, address string, stop func() error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conf := selfSigned(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l, conf) }()
	conn, err := grpc.NewClient("passthrough:///"+l.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(conf)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); conn.Close() })
	return v1.NewIngestClient(conn), l.Addr().String(), func() error { cancel(); return <-done }
}

func hello() *v1.PublishRequest {
	return &v1.PublishRequest{Of: &v1.PublishRequest_Hello{Hello: &v1.Hello{Epoch: 9}}}
}

func batch(b *v1.Batch) *v1.PublishRequest {
	return &v1.PublishRequest{Of: &v1.PublishRequest_Batch{Batch: b}}
}

func TestProtocolViolationsEndTheStream(t *testing.T) {
	good := batchOf(t, 1, testCalls(3, func(int) string { return "a.example" }))
	for name, c := range map[string]struct {
		send []*v1.PublishRequest
		want codes.Code
	}{
		"batch before Hello":    {[]*v1.PublishRequest{batch(good)}, codes.InvalidArgument},
		"nothing before Hello":  {[]*v1.PublishRequest{{}}, codes.InvalidArgument},
		"Hello without epoch":   {[]*v1.PublishRequest{{Of: &v1.PublishRequest_Hello{Hello: &v1.Hello{}}}}, codes.InvalidArgument},
		"two Hellos":            {[]*v1.PublishRequest{hello(), hello()}, codes.InvalidArgument},
		"batch without a seq":   {[]*v1.PublishRequest{hello(), batch(&v1.Batch{Epoch: 1})}, codes.InvalidArgument},
		"message beyond limits": {[]*v1.PublishRequest{hello(), batch(&v1.Batch{Epoch: 1, Seq: 1, Payload: make([]byte, 5<<20)})}, codes.ResourceExhausted},
	} {
		t.Run(name, func(t *testing.T) {
			client, _, stop := serve(t, newServer(t, &shelf{}))
			stream, err := client.Publish(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range c.send {
				stream.Send(m) // Whether it fails depends on how soon the server hangs up; Recv tells why.
			}
			for {
				if _, err = stream.Recv(); err != nil {
					break
				}
			}
			if status.Code(err) != c.want {
				t.Errorf("ended with %v, want %v", err, c.want)
			}
			if err := stop(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestStreamWelcomesAndReceipts(t *testing.T) {
	s := newServer(t, &shelf{})
	client, _, stop := serve(t, s)
	stream, err := client.Publish(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	good := batchOf(t, 1, testCalls(3, func(int) string { return "a.example" }))
	for _, m := range []*v1.PublishRequest{hello(), batch(good), {},
		{Of: &v1.PublishRequest_Health{Health: &v1.Health{Time: timestamppb.New(noon.Add(-90 * time.Second))}}},
		batch(&v1.Batch{Epoch: 9, Seq: 2, Count: 5, Payload: []byte("no")})} {
		if err := stream.Send(m); err != nil {
			t.Fatal(err)
		}
	}
	first, err := stream.Recv()
	if w := first.GetWelcome(); err != nil || string(w.GetKey()) != "key" || w.CreditBytes != 1<<20 || w.MaxBatchBytes != 4<<20 {
		t.Fatalf("welcome %v, %v", first, err)
	}
	for i, rejected := range []uint32{0, 5} {
		m, err := stream.Recv()
		if r := m.GetReceipt(); err != nil || r.GetSeq() != uint64(i+1) || r.Rejected != rejected {
			t.Fatalf("receipt %v, %v", m, err)
		}
	}
	a := s.Agents()
	if len(a) != 1 || a[0].Node != "node" || !a[0].Connected || a[0].Calls != 3 || a[0].Refused != 5 || a[0].Batches != 2 {
		t.Errorf("agents %v", a)
	}
	if a[0].SkewSeconds != -90 { // An agent whose clock is 90 s behind.
		t.Errorf("skew %v s", a[0].SkewSeconds)
	}
	if c := s.Counts(); c.UnknownMessages != 1 || c.Connected != 1 {
		t.Errorf("%+v", c)
	}
	// A silent stream must not keep the server from stopping.
	began := time.Now()
	if err := stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > stopTimeout/2 {
		t.Errorf("stopping took %v", took)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("the stream ended with %v", err)
	}
}

func TestNamelessAndPlainAgentsAreRefused(t *testing.T) {
	s := newServer(t, &shelf{})
	s.cfg.Node = func(tls.ConnectionState) (string, error) { return "", errors.New("nobody") }
	client, address, _ := serve(t, s)
	stream, err := client.Publish(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "nobody") {
		t.Errorf("a certificate that names no node: %v", err)
	}
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if stream, err = v1.NewIngestClient(conn).Publish(t.Context()); err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.Unavailable {
		t.Errorf("without TLS: %v", err)
	}
	if len(s.Agents()) != 0 {
		t.Error("a stranger is in the table")
	}
}

// TestHelloSaysWhoSpeaks where Speaker lets it; what a call says of its node never counts.
func TestHelloSaysWhoSpeaks(t *testing.T) {
	j := &shelf{}
	s := newServer(t, j)
	s.cfg.Speaker = func(certified, said string) (string, error) {
		if said == "" {
			return "", errors.New(certified + " needs a name")
		}
		return said, nil
	}
	client, _, _ := serve(t, s)
	good := batchOf(t, 1, testCalls(3, func(int) string { return "a.example" }))
	for _, name := range []string{"n1", "n2", ""} {
		stream, err := client.Publish(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		first := hello()
		first.GetHello().Node = name
		for _, m := range []*v1.PublishRequest{first, batch(good)} {
			stream.Send(m) // Recv tells why it fails.
		}
		_, err = stream.Recv()
		if name == "" {
			if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "node needs a name") {
				t.Errorf("without a name: %v", err)
			}
			continue
		}
		if m, err := stream.Recv(); err != nil || m.GetReceipt().GetRejected() != 0 {
			t.Fatalf("%s: %v, %v", name, m, err)
		}
	}
	var got []string
	for _, records := range j.records {
		for _, r := range records {
			got = append(got, r.Agent)
		}
	}
	if a := s.Agents(); !slices.Equal(got, []string{"n1", "n2"}) || len(a) != 2 || a[0].Node != "n1" || a[1].Node != "n2" {
		t.Errorf("records of %v, agents %v", got, a)
	}
}

func TestPanicEndsOneStreamOnly(t *testing.T) {
	s := newServer(t, &shelf{})
	var told error
	s.cfg.Notice = func(err error) { told = err }
	inner := s.cfg.Node
	s.cfg.Node = func(state tls.ConnectionState) (string, error) { panic("node fell over") }
	client, _, stop := serve(t, s)
	stream, err := client.Publish(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.Internal || strings.Contains(err.Error(), "node fell over") {
		t.Errorf("the agent was told %v", err)
	}
	if s.Counts().Panics != 1 {
		t.Errorf("%+v", s.Counts())
	}
	s.cfg.Node = inner
	if stream, err = client.Publish(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(hello()); err != nil {
		t.Fatal(err)
	}
	if m, err := stream.Recv(); m.GetWelcome() == nil {
		t.Errorf("the next stream: %v, %v", m, err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if told == nil || !strings.Contains(told.Error(), "node fell over") {
		t.Errorf("the log was told %v", told)
	}
}
