package deploy

import (
	"net"
	"strings"
	"testing"
	"time"

	v1 "github.com/spile/spile/proto/spile/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// silent welcomes agents, reads what they send and says nothing more, or does not even read.
type silent struct {
	v1.UnimplementedIngestServer
	deaf     bool
	received chan *v1.Batch
}

func (s *silent) Publish(stream grpc.BidiStreamingServer[v1.PublishRequest, v1.PublishResponse]) error {
	if _, err := stream.Recv(); err != nil {
		return err
	}
	welcome := &v1.Welcome{Key: make([]byte, 32), CreditBytes: 2000, MaxBatchBytes: 4 << 20}
	if err := stream.Send(&v1.PublishResponse{Of: &v1.PublishResponse_Welcome{Welcome: welcome}}); err != nil {
		return err
	}
	if s.deaf {
		<-stream.Context().Done()
		return stream.Context().Err()
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		if b := m.GetBatch(); b != nil {
			s.received <- b
		}
	}
}

func TestWireSurvivesASilentCollector(t *testing.T) {
	for name, deaf := range map[string]bool{"reads, no receipts": false, "does not read": true} {
		t.Run(name, func(t *testing.T) {
			w := newWire(t)
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			g := grpc.NewServer(grpc.Creds(credentials.NewTLS(w.id.ServerTLS())))
			fake := &silent{deaf: deaf, received: make(chan *v1.Batch, 10_000)}
			v1.RegisterIngestServer(g, fake)
			go g.Serve(l)
			defer g.Stop()

			cfg := w.config("node-1", t.TempDir())
			cfg.Address, cfg.MaxCalls, cfg.ReceiptTimeout = l.Addr().String(), 1, 400*time.Millisecond
			lines := make(chan string, 100)
			cfg.Notice = func(err error) {
				if err != nil {
					lines <- err.Error()
				}
			}
			s := startShip(t, cfg)
			for i := range 200 {
				s.Add(madeCall(i))
			}
			select {
			case line := <-lines:
				if !strings.Contains(line, "no receipt") {
					t.Errorf("told: %q", line)
				}
			case <-time.After(20 * time.Second):
				t.Fatal("an agent waits for a silent collector for ever")
			}
			s.kill()
			mustBalance(t, s.Counts())
			if c := s.Counts(); c.Spooled != 200 || c.Receipted != 0 {
				t.Errorf("%+v", c)
			}
			bytes := 0
			for len(fake.received) > 0 && bytes <= 2000 {
				b := <-fake.received
				if bytes += len(b.Payload); b.Seq == 1 && bytes > len(b.Payload) {
					bytes = len(b.Payload) // The second connection begins again.
				}
			}
			if bytes > 2000 {
				t.Errorf("%d bytes without a receipt, credit is 2,000", bytes)
			}
		})
	}
}

// Batches of one call: thousands in flight within the credit, and as many receipts.
func TestWireManySmallBatches(t *testing.T) {
	w := newWire(t)
	w.stop()
	cfg := w.config("node-1", t.TempDir())
	cfg.MaxCalls = 1
	s := startShip(t, cfg)
	for i := range 8000 {
		s.Add(madeCall(i))
	}
	w.open()
	if err := s.Drain(within(t, 60*time.Second)); err != nil {
		t.Fatal(err)
	}
	mustHave(t, w.journal, 8000)
	mustBalance(t, s.Counts())
}
