package intake

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"

	v1 "github.com/spile/spile/proto/spile/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

const maxReasonBytes = 512

// Publish serves one stream of one agent.
func (s *Server) Publish(stream grpc.BidiStreamingServer[v1.PublishRequest, v1.PublishResponse]) error {
	state, ok := tlsState(stream.Context())
	if !ok {
		return status.Error(codes.Unauthenticated, "agents must connect with mutual TLS")
	}
	certified, err := s.cfg.Node(state)
	if err != nil {
		return status.Error(codes.PermissionDenied, err.Error())
	}
	first, err := stream.Recv()
	if err != nil {
		return ended(err)
	}
	hello := first.GetHello()
	if hello == nil || hello.Epoch == 0 {
		return status.Error(codes.InvalidArgument, "a stream begins with Hello and an epoch")
	}
	node, err := s.cfg.Speaker(certified, hello.Node)
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	a, err := s.connect(node)
	if err != nil {
		return err
	}
	defer s.disconnect(a)
	s.begin(a, hello.Epoch)
	welcome := &v1.Welcome{Key: s.cfg.Key, KeyEpoch: s.cfg.KeyEpoch, CreditBytes: s.cfg.Credit,
		MaxBatchBytes: s.cfg.MaxBatchBytes, Collector: s.cfg.Collector}
	if err := stream.Send(&v1.PublishResponse{Of: &v1.PublishResponse_Welcome{Welcome: welcome}}); err != nil {
		return err
	}
	s.mu.Lock()
	stop := s.stop
	s.mu.Unlock()
	messages, failed := pump(stream)
	for {
		var m *v1.PublishRequest
		select {
		case m = <-messages:
		case err := <-failed:
			return ended(err)
		case <-stop:
			return status.Error(codes.Unavailable, "the collector is stopping")
		}
		switch of := m.Of.(type) {
		case *v1.PublishRequest_Batch:
			receipt, err := s.take(stream.Context(), a, of.Batch)
			if err != nil {
				return err
			}
			if err := stream.Send(&v1.PublishResponse{Of: &v1.PublishResponse_Receipt{Receipt: receipt}}); err != nil {
				return err
			}
		case *v1.PublishRequest_Health:
			s.health(a, of.Health)
		case *v1.PublishRequest_Hello:
			return status.Error(codes.InvalidArgument, "a stream has one Hello")
		default:
			// A newer agent may say more than this collector understands.
			s.count(func(c *Counts) { c.UnknownMessages++ })
		}
	}
}

// pump receives, so that a stream whose agent is silent can still be ended from here. It ends with
// the stream's context, which is over when Publish returns.
func pump(stream grpc.BidiStreamingServer[v1.PublishRequest, v1.PublishResponse]) (<-chan *v1.PublishRequest, <-chan error) {
	messages, failed := make(chan *v1.PublishRequest), make(chan error, 1)
	go func() {
		for {
			m, err := stream.Recv()
			if err != nil {
				failed <- err
				return
			}
			select {
			case messages <- m:
			case <-stream.Context().Done():
				return
			}
		}
	}()
	return messages, failed
}

// take stores a batch and makes its receipt; an error ends the stream.
func (s *Server) take(ctx context.Context, a *agent, b *v1.Batch) (*v1.Receipt, error) {
	if b == nil || b.Epoch == 0 || b.Seq == 0 || b.Seq > maxSeq {
		return nil, status.Error(codes.InvalidArgument, "a batch has an epoch and a seq from 1 to 2^59")
	}
	c := s.coders.Get().(*coder)
	parts, refused, why := s.prepare(c, a.node, b)
	s.coders.Put(c)
	if why != nil && !errors.Is(why, errRefused) {
		return nil, status.Errorf(codes.Internal, "prepare batch: %v", why)
	}
	if len(parts) > 0 {
		if err := s.store(ctx, parts); err != nil {
			s.count(func(c *Counts) { c.JournalErrors++ })
			return nil, status.Errorf(codes.Unavailable, "store batch in the journal: %v", err)
		}
	}
	receipt := &v1.Receipt{Epoch: b.Epoch, Seq: b.Seq, Rejected: refused, CreditBytes: s.cfg.Credit}
	if why != nil {
		receipt.Reason = clip(why.Error())
	}
	stored := uint32(0)
	for _, p := range parts {
		stored += p.record.Count
	}
	s.batchDone(a, b, stored, refused, len(parts), why)
	return receipt, nil
}

func tlsState(ctx context.Context) (tls.ConnectionState, bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return tls.ConnectionState{}, false
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	return info.State, ok
}

func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	if status.Code(err) == codes.Unknown {
		return status.Error(codes.Unavailable, fmt.Sprintf("read from agent: %v", err))
	}
	return err
}

func clip(s string) string {
	if len(s) > maxReasonBytes {
		return s[:maxReasonBytes]
	}
	return s
}
