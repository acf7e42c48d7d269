package journal

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// ackWait is how long after a crash the value that was being handled waits to be delivered again.
	ackWait = 6 * time.Second
	// retryWait is the pause before a value whose handler failed comes again.
	retryWait = time.Second
	// ackTimeout is how long keeping the position may take; after ackWait the value comes again anyway.
	ackTimeout = ackWait / 2
)

// Watch hands each change of the keys that begin with keyPrefix (whole tokens, such as "fi") to fn, and remembers under the
// name durable, across restarts, how far it came. A value counts as handled when fn has returned nil; until then nothing
// behind it is delivered. When fn fails, Watch returns its error; the value comes again on the next Watch. fn may take as
// long as it needs. Of a key changed often meanwhile only the newest values come (two at most). A removed key comes with an
// empty value. Every delivery is at least once: fn's receiver needs the key and its revision to tell a second one.
func (j *Journal) Watch(ctx context.Context, durable, keyPrefix string, fn func(seq uint64, key string, value []byte) error) error {
	if err := checkKey(keyPrefix); err != nil {
		return fmt.Errorf("watch %q: %w", keyPrefix, err)
	}
	c, err := j.state.CreateOrUpdateConsumer(ctx, jetstream.ConsumerConfig{
		Durable: durable, FilterSubject: "st.*." + keyPrefix + ".>", DeliverPolicy: jetstream.DeliverAllPolicy,
		AckPolicy: jetstream.AckExplicitPolicy, AckWait: ackWait, MaxAckPending: 1, MaxDeliver: -1,
	})
	if err != nil {
		return j.wrap("watch as "+durable, err)
	}
	iter, err := c.Messages(jetstream.PullMaxMessages(prefetchRecords))
	if err != nil {
		return j.wrap("watch as "+durable, err)
	}
	defer iter.Stop()
	for {
		m, err := iter.Next(jetstream.NextContext(ctx))
		if errors.Is(err, jetstream.ErrNoHeartbeat) {
			continue // the engine is slow or reconnecting; the iterator goes on
		}
		if err != nil {
			return j.wrap("watch as "+durable, errors.Join(ctx.Err(), err))
		}
		if err := handle(ctx, m, fn); err != nil {
			return err
		}
	}
}

// handle runs fn on one message and keeps the engine from sending it again meanwhile.
func handle(ctx context.Context, m jetstream.Msg, fn func(uint64, string, []byte) error) error {
	md, err := m.Metadata()
	if err != nil {
		return err
	}
	done := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(ackWait / 3)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				_ = m.InProgress() // lost with the connection, which the next Next reports
			case <-done:
				return
			}
		}
	}()
	err = fn(md.Sequence.Stream, keyOf(m.Subject()), m.Data())
	close(done)
	<-stopped
	if err != nil {
		_ = m.NakWithDelay(retryWait) // lost: the value comes again after ackWait instead
		return err
	}
	// What fn has done is done: an orderly end meanwhile must not make it come again.
	acked, cancel := context.WithTimeout(context.WithoutCancel(ctx), ackTimeout)
	defer cancel()
	if err := m.DoubleAck(acked); err != nil {
		return fmt.Errorf("keep the position after %s: %w", m.Subject(), err)
	}
	return nil
}

// Backlog counts the values that the watcher durable has not handled.
func (j *Journal) Backlog(ctx context.Context, durable string) (uint64, error) {
	c, err := j.state.Consumer(ctx, durable)
	if err != nil {
		return 0, j.wrap("measure backlog of "+durable, err)
	}
	info := c.CachedInfo()
	return info.NumPending + uint64(info.NumAckPending), nil
}

// keyOf drops "st.PART.".
func keyOf(subject string) string {
	return strings.SplitN(subject, ".", 3)[2]
}
