package ship

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
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
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	conn, err := grpc.NewClient("passthrough:///"+s.cfg.Address,
		grpc.WithTransportCredentials(credentials.NewTLS(s.cfg.TLS)),
		grpc.WithNoProxy(), // The environment of a privileged program must not redirect it.
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReplyBytes)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}))
	if err != nil {
		return false, err
	}
	defer conn.Close()
	greeting := time.AfterFunc(connectTimeout, func() { cancel(nil) })
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
	f := flight{s: s, stream: stream, maxBatch: welcome.MaxBatchBytes, failed: make(chan error, 1)}
	f.credit.Store(welcome.CreditBytes)
	go f.receive()
	go f.watch(ctx, cancel)
	return true, f.send(ctx)
}

func (s *Shipper) greet(ctx context.Context, conn *grpc.ClientConn) (publishStream, *v1.Welcome, error) {
	stream, err := v1.NewIngestClient(conn).Publish(ctx)
	if err != nil {
		return nil, nil, err
	}
	hello := &v1.Hello{Version: s.cfg.Version, Kernel: s.cfg.Kernel, Epoch: s.spool.epoch, Node: s.cfg.Node}
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

// flight is what is in flight on one stream. send runs on the sender goroutine; receive settles
// receipts at once, so that a collector never waits to be heard while send waits to be read.
type flight struct {
	s        *Shipper
	stream   publishStream
	maxBatch uint32
	credit   atomic.Uint64
	bytes    atomic.Int64
	progress atomic.Int64 // Unix ns of the last receipt, or of the batch that was sent into silence
	failed   chan error
}

func (f *flight) receive() {
	for {
		m, err := f.stream.Recv()
		if err != nil {
			f.failed <- err
			return
		}
		if r := m.GetReceipt(); r != nil {
			f.settle(r)
		}
	}
}

// watch ends a stream on which receipts are due and none comes, even when send hangs in Send.
func (f *flight) watch(ctx context.Context, end context.CancelCauseFunc) {
	tick := time.NewTicker(f.s.cfg.ReceiptTimeout / 4)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			if f.bytes.Load() > 0 && now.UnixNano()-f.progress.Load() > int64(f.s.cfg.ReceiptTimeout) {
				end(status.Errorf(codes.Unavailable, "%v for %v", errSilent, f.s.cfg.ReceiptTimeout))
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

func (f *flight) send(ctx context.Context) error {
	health := time.NewTicker(f.s.cfg.HealthEvery)
	defer health.Stop()
	if err := f.sendHealth(ctx); err != nil {
		return err
	}
	ready := make(chan struct{}) // always ready
	close(ready)
	var held *entry
	var heldRecord record
	for {
		_, changed := f.s.spool.watch() // Before looking, so that no change is missed.
		if held == nil {
			held, heldRecord = f.s.spool.next()
		}
		more := changed
		if held != nil && f.fits(heldRecord) {
			if err := f.sendBatch(ctx, held, heldRecord); err != nil {
				return err
			}
			held, more = nil, ready // the next one may follow at once
		}
		select {
		case <-more:
		case err := <-f.failed:
			return f.why(ctx, err)
		case <-health.C:
			if err := f.sendHealth(ctx); err != nil {
				return err
			}
		case sent := <-f.s.report:
			if err := f.answer(ctx, sent); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// fits obeys the credit; a batch larger than all of it goes alone.
func (f *flight) fits(r record) bool {
	flying := f.bytes.Load()
	return flying <= 0 || uint64(flying)+uint64(r.bytes) <= f.credit.Load()
}

func (f *flight) sendBatch(ctx context.Context, e *entry, r record) error {
	if f.maxBatch > 0 && r.bytes > f.maxBatch {
		f.s.spool.refuse(e, DropTooLarge)
		return nil
	}
	if f.bytes.Load() == 0 {
		f.progress.Store(time.Now().UnixNano())
	}
	f.bytes.Add(int64(r.bytes)) // Before launch, after which its receipt may come.
	if !f.s.spool.launch(e) {
		f.bytes.Add(-int64(r.bytes))
		return nil
	}
	batch := &v1.Batch{Epoch: e.seg.epoch, Seq: e.seq, Count: e.count, Payload: r.payload, Sealed: timestamppb.New(r.sealed)}
	if err := f.stream.Send(&v1.PublishRequest{Of: &v1.PublishRequest_Batch{Batch: batch}}); err != nil {
		return f.ended(ctx, err)
	}
	return nil
}

func (f *flight) settle(r *v1.Receipt) {
	f.progress.Store(time.Now().UnixNano())
	if r.CreditBytes > 0 {
		f.credit.Store(r.CreditBytes)
	}
	if r.Rejected > 0 {
		f.s.notice(fmt.Errorf("collector refused calls for good: %s", r.Reason))
	}
	// The spool tells send of the change, which must find the credit given back by then.
	f.s.spool.receipt(r.Epoch, r.Seq, r.Rejected, func(bytes uint32) { f.bytes.Add(-int64(bytes)) })
}

// ended waits for the receiver, which knows why the stream ended; Send itself only says EOF.
func (f *flight) ended(ctx context.Context, err error) error {
	select {
	case err = <-f.failed:
	case <-time.After(time.Second):
	}
	return f.why(ctx, err)
}

// why prefers our own reason for ending a stream to gRPC's "canceled".
func (f *flight) why(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// answer sends the report that was asked for. The last one is followed by the end of the stream, and is taken as sent
// when the collector has ended its side too: until then it may still lie in a buffer that the end throws away.
func (f *flight) answer(ctx context.Context, sent chan<- struct{}) error {
	if err := f.sendHealth(ctx); err != nil || sent == nil {
		return err
	}
	defer close(sent)
	if err := f.stream.CloseSend(); err != nil {
		return err
	}
	select {
	case err := <-f.failed:
		return f.why(ctx, err)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (f *flight) sendHealth(ctx context.Context) error {
	h := &v1.Health{}
	if f.s.cfg.Health != nil {
		if made := f.s.cfg.Health(); made != nil {
			h = made
		}
	}
	h.Time, h.Version, h.Kernel, h.Epoch = timestamppb.Now(), f.s.cfg.Version, f.s.cfg.Kernel, f.s.spool.epoch
	h.Counts = append(h.Counts, f.s.Counts().Proto()...)
	if err := f.stream.Send(&v1.PublishRequest{Of: &v1.PublishRequest_Health{Health: h}}); err != nil {
		return f.ended(ctx, err)
	}
	return nil
}
