package journal

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Record is one agent's batch, or the part of it that belongs to one partition.
type Record struct {
	Agent   string
	Epoch   uint64
	Seq     uint64
	Payload []byte
	// Count calls, the earliest at Min, the latest at Max.
	Count    uint32
	Min, Max time.Time

	// Stored and Pending are filled by Read and Scan: when the journal took the record, and how many records of what is
	// being read were behind it.
	Stored  time.Time
	Pending uint64
}

const (
	headerAgent = "Spile-Agent"
	headerEpoch = "Spile-Epoch"
	headerSeq   = "Spile-Seq"
	headerCount = "Spile-Count"
	headerMin   = "Spile-Min"
	headerMax   = "Spile-Max"

	// Prefetched messages bound what one reader holds: 64 owners with 8 records of some 30 KB each, or 128 values of state.
	prefetchRecords = 8
	prefetchValues  = 128
)

// Append stores a record and returns when it is on disk (or replicated). Concurrent callers share the connection and wait
// only for their own record; one caller's records keep their order. After an error the record may be stored or not:
// append it again, the owner drops the second copy.
func (j *Journal) Append(ctx context.Context, partition int, r Record) error {
	if err := checkPartition(partition); err != nil {
		return fmt.Errorf("append record: %w", err)
	}
	if len(r.Payload) > MaxValueBytes {
		return fmt.Errorf("append record of %d bytes: %w (at most %d)", len(r.Payload), ErrTooLarge, MaxValueBytes)
	}
	if r.Agent == "" || strings.ContainsFunc(r.Agent, func(c rune) bool { return c < ' ' || c == 0x7f }) {
		return fmt.Errorf("append record: agent name %q is empty or has control characters", r.Agent)
	}
	m := nats.NewMsg("ev." + partitionToken(partition) + "." + tenant)
	m.Data = r.Payload
	m.Header = nats.Header{
		headerAgent: {r.Agent},
		headerEpoch: {strconv.FormatUint(r.Epoch, 10)},
		headerSeq:   {strconv.FormatUint(r.Seq, 10)},
		headerCount: {strconv.FormatUint(uint64(r.Count), 10)},
		headerMin:   {strconv.FormatInt(r.Min.UnixNano(), 10)},
		headerMax:   {strconv.FormatInt(r.Max.UnixNano(), 10)},
	}
	if err := j.writable(); err != nil {
		return j.wrap("append record", err)
	}
	ctx, cancel := withTimeout(ctx, requestTimeout)
	defer cancel()
	if _, err := j.js.PublishMsg(ctx, m, jetstream.WithExpectStream(events)); err != nil {
		return j.wrap("append record", err)
	}
	return nil
}

// Read calls fn for every record of a partition after sequence afterSeq, in order, and waits for more until ctx ends or fn
// returns an error, which it returns. fn owns the record.
func (j *Journal) Read(ctx context.Context, partition int, afterSeq uint64, fn func(seq uint64, r Record) error) error {
	if err := checkPartition(partition); err != nil {
		return fmt.Errorf("read records: %w", err)
	}
	cfg := jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{"ev." + partitionToken(partition) + ".*"},
		DeliverPolicy:  jetstream.DeliverByStartSequencePolicy, OptStartSeq: afterSeq + 1,
	}
	return j.wrap("read records", j.consume(ctx, events, cfg, true, func(m jetstream.Msg, md *jetstream.MsgMetadata) error {
		r, err := recordOf(m, md)
		if err != nil {
			return err
		}
		return fn(md.Sequence.Stream, r)
	}))
}

// Scan calls fn for every record of every partition that was stored at or after since; with follow it then waits for more.
// A call that happened at or after since is in one of them, for a call is stored after it happened. fn owns the record.
func (j *Journal) Scan(ctx context.Context, since time.Time, follow bool, fn func(partition int, seq uint64, r Record) error) error {
	cfg := jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverAllPolicy}
	if !since.IsZero() {
		cfg.DeliverPolicy, cfg.OptStartTime = jetstream.DeliverByStartTimePolicy, &since
	}
	return j.wrap("scan records", j.consume(ctx, events, cfg, follow, func(m jetstream.Msg, md *jetstream.MsgMetadata) error {
		p, err := parsePartition(m.Subject())
		if err != nil {
			return err
		}
		r, err := recordOf(m, md)
		if err != nil {
			return err
		}
		return fn(p, md.Sequence.Stream, r)
	}))
}

// Bounds are the sequences of the oldest record kept and of the newest one. A reader whose position is below first-1 may have
// missed records to retention. One whose position is above last outlived damage to the files: the engine cut off what it
// could not read and gives those sequences out again, so the reader must go back to last.
func (j *Journal) Bounds(ctx context.Context) (first, last uint64, err error) {
	info, err := j.events.Info(ctx)
	if err != nil {
		return 0, 0, j.wrap("look up the bounds", err)
	}
	return info.State.FirstSeq, info.State.LastSeq, nil
}

// Lag counts the records of a partition after a sequence.
func (j *Journal) Lag(ctx context.Context, partition int, seq uint64) (uint64, error) {
	if err := checkPartition(partition); err != nil {
		return 0, fmt.Errorf("measure lag: %w", err)
	}
	c, err := j.events.CreateConsumer(ctx, jetstream.ConsumerConfig{
		FilterSubject: "ev." + partitionToken(partition) + ".*", AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true,
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: seq + 1, InactiveThreshold: 5 * time.Second,
		Replicas: 1, HeadersOnly: true,
	})
	if err != nil {
		return 0, j.wrap("measure lag", err)
	}
	info := c.CachedInfo()
	// It would expire by itself; a failure here loses nothing.
	_ = j.events.DeleteConsumer(ctx, info.Name)
	return info.NumPending, nil
}

// errDone ends consume from inside without an error.
var errDone = errors.New("done")

// consume runs an ordered consumer: no acks, restarted by the client where a message is missing, gone with the connection.
func (j *Journal) consume(ctx context.Context, stream string, cfg jetstream.OrderedConsumerConfig, follow bool, fn func(jetstream.Msg, *jetstream.MsgMetadata) error) error {
	c, err := j.js.OrderedConsumer(ctx, stream, cfg)
	if err != nil {
		return err
	}
	if !follow && c.CachedInfo().NumPending == 0 {
		return nil
	}
	prefetch := prefetchValues
	if stream == events {
		prefetch = prefetchRecords
	}
	iter, err := c.Messages(jetstream.PullMaxMessages(prefetch))
	if err != nil {
		return err
	}
	defer iter.Stop()
	for {
		m, err := iter.Next(jetstream.NextContext(ctx))
		if err != nil {
			return errors.Join(ctx.Err(), err)
		}
		md, err := m.Metadata()
		if err != nil {
			return err
		}
		if err := fn(m, md); err == errDone {
			return nil
		} else if err != nil {
			return err
		}
		if !follow && md.NumPending == 0 {
			return nil
		}
	}
}

func recordOf(m jetstream.Msg, md *jetstream.MsgMetadata) (r Record, err error) {
	h := m.Headers()
	number := func(key string, bits int) uint64 {
		n, e := strconv.ParseUint(h.Get(key), 10, bits)
		if e != nil && err == nil {
			err = fmt.Errorf("record %d: header %s: %w", md.Sequence.Stream, key, e)
		}
		return n
	}
	instant := func(key string) time.Time {
		n, e := strconv.ParseInt(h.Get(key), 10, 64)
		if e != nil && err == nil {
			err = fmt.Errorf("record %d: header %s: %w", md.Sequence.Stream, key, e)
		}
		return time.Unix(0, n).UTC()
	}
	r = Record{
		Agent: h.Get(headerAgent), Epoch: number(headerEpoch, 64), Seq: number(headerSeq, 64), Payload: m.Data(),
		Count: uint32(min(number(headerCount, 32), math.MaxUint32)), Min: instant(headerMin), Max: instant(headerMax),
		Stored: md.Timestamp, Pending: md.NumPending,
	}
	return r, err
}

// withTimeout keeps a caller without a deadline from waiting for ever on an engine that cannot answer.
func withTimeout(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, d)
}
