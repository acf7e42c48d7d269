package ship

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	v1 "github.com/spile/spile/proto/spile/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const (
	minBackoff     = 100 * time.Millisecond
	maxBackoff     = 5 * time.Second
	connectTimeout = 10 * time.Second
	maxReplyBytes  = 64 << 10
)

// errSilent says that the collector takes batches but sends no receipts.
var errSilent = errors.New("no receipt from the collector")

// sendLoop connects again and again until ctx ends.
func (s *Shipper) sendLoop(ctx context.Context) {
	backoff := minBackoff
	for ctx.Err() == nil {
		welcomed, err := s.session(ctx)
		s.connected.Store(false)
		s.spool.rewind()
		if ctx.Err() != nil {
			return
		}
		if welcomed {
			backoff = minBackoff
		}
		s.notice(s.explain(ctx, err))
		// Half to the whole, so that agents cut off together do not come back together.
		wait := backoff/2 + rand.N(backoff/2+1)
		backoff = min(2*backoff, maxBackoff)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

// session is one connection: Hello, Welcome, then batches until something fails.
func (s *Shipper) session(ctx context.Context) (welcomed bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn, err := grpc.NewClient("passthrough:///"+s.cfg.Address,
		grpc.WithTransportCredentials(credentials.NewTLS(s.cfg.TLS)),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReplyBytes)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}))
	if err != nil {
		return false, err
	}
	defer conn.Close()
	greeting := time.AfterFunc(connectTimeout, cancel)
	stream, welcome, err := s.greet(ctx, conn)
	if !greeting.Stop() {
		return false, status.Errorf(codes.Unavailable, "no answer within %v", connectTimeout)
	}
	if err != nil {
		return false, err
	}
	s.connected.Store(true)
	s.notice(nil)
	if s.cfg.OnWelcome != nil {
		s.cfg.OnWelcome(welcome.Key, welcome.KeyEpoch)
	}
	f := flight{s: s, stream: stream, credit: welcome.CreditBytes, maxBatch: welcome.MaxBatchBytes,
		receipts: make(chan *v1.Receipt, 64), failed: make(chan error, 1)}
	go f.receive(ctx)
	return true, f.send(ctx)
}

func (s *Shipper) greet(ctx context.Context, conn *grpc.ClientConn) (publishStream, *v1.Welcome, error) {
	stream, err := v1.NewIngestClient(conn).Publish(ctx)
	if err != nil {
		return nil, nil, err
	}
	hello := &v1.Hello{Version: s.cfg.Version, Kernel: s.cfg.Kernel, Epoch: s.spool.epoch}
	sendErr := stream.Send(&v1.PublishRequest{Of: &v1.PublishRequest_Hello{Hello: hello}})
	first, err := stream.Recv() // Also tells why Send failed, which itself only says EOF.
	if err == nil {
		err = sendErr
	}
	if err != nil {
		return nil, nil, err
	}
	if first.GetWelcome() == nil {
		return nil, nil, status.Error(codes.InvalidArgument, "the collector did not answer Hello with Welcome")
	}
	return stream, first.GetWelcome(), nil
}

type publishStream = grpc.BidiStreamingClient[v1.PublishRequest, v1.PublishResponse]

// flight is what is in flight on one stream. receive hands receipts to send, which owns the rest.
type flight struct {
	s        *Shipper
	stream   publishStream
	credit   uint64
	maxBatch uint32
	bytes    uint64
	receipts chan *v1.Receipt
	failed   chan error
}

func (f *flight) receive(ctx context.Context) {
	for {
		m, err := f.stream.Recv()
		if err != nil {
			f.failed <- err
			return
		}
		r := m.GetReceipt()
		if r == nil {
			continue
		}
		select {
		case f.receipts <- r:
		case <-ctx.Done():
			return
		}
	}
}

func (f *flight) send(ctx context.Context) error {
	health := time.NewTicker(f.s.cfg.HealthEvery)
	defer health.Stop()
	silence := time.NewTimer(f.s.cfg.ReceiptTimeout)
	defer silence.Stop()
	if err := f.sendHealth(); err != nil {
		return err
	}
	var held *entry
	var heldRecord record
	for {
		var changed <-chan struct{}
		if held == nil {
			held, heldRecord, changed = f.s.spool.next()
		}
		if held != nil && f.fits(heldRecord) {
			if err := f.sendBatch(held, heldRecord); err != nil {
				return err
			}
			held = nil
			select {
			case r := <-f.receipts:
				f.settle(r, silence)
			case <-health.C:
				if err := f.sendHealth(); err != nil {
					return err
				}
			default:
			}
			continue
		}
		select {
		case <-changed:
		case r := <-f.receipts:
			f.settle(r, silence)
		case err := <-f.failed:
			return f.settleRest(err, silence)
		case <-health.C:
			if err := f.sendHealth(); err != nil {
				return err
			}
		case <-silence.C:
			if f.bytes > 0 {
				return status.Errorf(codes.Unavailable, "%v for %v", errSilent, f.s.cfg.ReceiptTimeout)
			}
			silence.Reset(f.s.cfg.ReceiptTimeout)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// fits obeys the credit; a batch larger than all of it goes alone.
func (f *flight) fits(r record) bool {
	return f.bytes == 0 || f.bytes+uint64(r.bytes) <= f.credit
}

func (f *flight) sendBatch(e *entry, r record) error {
	if f.maxBatch > 0 && r.bytes > f.maxBatch {
		f.s.spool.refuse(e, DropTooLarge)
		return nil
	}
	if !f.s.spool.launch(e) {
		return nil
	}
	f.bytes += uint64(r.bytes)
	batch := &v1.Batch{Epoch: e.seg.epoch, Seq: e.seq, Count: e.count, Payload: r.payload, Sealed: timestamppb.New(r.sealed)}
	if err := f.stream.Send(&v1.PublishRequest{Of: &v1.PublishRequest_Batch{Batch: batch}}); err != nil {
		return f.ended(err)
	}
	return nil
}

func (f *flight) settle(r *v1.Receipt, silence *time.Timer) {
	silence.Reset(f.s.cfg.ReceiptTimeout)
	if bytes, known := f.s.spool.receipt(r.Epoch, r.Seq, r.Rejected); known {
		f.bytes -= min(f.bytes, bytes)
	}
	if r.CreditBytes > 0 {
		f.credit = r.CreditBytes
	}
	if r.Rejected > 0 {
		f.s.notice(fmt.Errorf("collector refused %d calls of batch %d: %s", r.Rejected, r.Seq, r.Reason))
	}
}

// settleRest takes the receipts that came before the stream ended.
func (f *flight) settleRest(err error, silence *time.Timer) error {
	for {
		select {
		case r := <-f.receipts:
			f.settle(r, silence)
		default:
			return err
		}
	}
}

// ended waits for the receiver, which knows why the stream ended.
func (f *flight) ended(err error) error {
	select {
	case why := <-f.failed:
		return why
	case <-time.After(time.Second):
		return err
	}
}

func (f *flight) sendHealth() error {
	h := &v1.Health{}
	if f.s.cfg.Health != nil {
		if made := f.s.cfg.Health(); made != nil {
			h = made
		}
	}
	h.Time, h.Version, h.Kernel, h.Epoch = timestamppb.Now(), f.s.cfg.Version, f.s.cfg.Kernel, f.s.spool.epoch
	h.Counts = append(h.Counts, f.s.Counts().Proto()...)
	if err := f.stream.Send(&v1.PublishRequest{Of: &v1.PublishRequest_Health{Health: h}}); err != nil {
		return f.ended(err)
	}
	return nil
}
