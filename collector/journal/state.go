package journal

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Entry is one key of a partition's state. A nil or empty Value removes the key.
type Entry struct {
	Key   string
	Value []byte
}

// Snapshot is a partition's state as its last commit left it.
type Snapshot struct {
	Entries map[string][]byte
	Meta    []byte
	// Revision fences the next commit.
	Revision uint64
}

const (
	metaKey = "meta"
	// headerFence is the revision that a commit's entries were fenced with.
	headerFence = "Spile-Fence"
)

// version is one stored value of one key.
type version struct {
	value    []byte
	fence    uint64
	revision uint64
}

// Load reads a partition's state. It is the owner's first act: where a power failure left half a commit, Load writes the
// values before it back under the fence, which refuses an owner that went before.
func (j *Journal) Load(ctx context.Context, partition int) (Snapshot, error) {
	if err := checkPartition(partition); err != nil {
		return Snapshot{}, fmt.Errorf("load state: %w", err)
	}
	ctx, cancel := withTimeout(ctx, stateTimeout)
	defer cancel()
	prefix := "st." + partitionToken(partition) + "."
	kept := map[string][]version{}
	cfg := jetstream.OrderedConsumerConfig{FilterSubjects: []string{prefix + ">"}, DeliverPolicy: jetstream.DeliverAllPolicy}
	err := j.consume(ctx, state, cfg, false, func(m jetstream.Msg, md *jetstream.MsgMetadata) error {
		fence, err := strconv.ParseUint(m.Headers().Get(headerFence), 10, 64)
		if err != nil {
			return fmt.Errorf("read fence of %s: %w", m.Subject(), err)
		}
		key := strings.TrimPrefix(m.Subject(), prefix)
		kept[key] = append(kept[key], version{m.Data(), fence, md.Sequence.Stream})
		return nil
	})
	if err != nil {
		return Snapshot{}, j.wrap("load state of partition "+strconv.Itoa(partition), err)
	}

	s := Snapshot{Entries: map[string][]byte{}}
	if metas := kept[metaKey]; len(metas) > 0 {
		last := metas[len(metas)-1]
		s.Meta, s.Revision = last.value, last.revision
	}
	delete(kept, metaKey)
	var torn []Entry
	for key, versions := range kept {
		last := versions[len(versions)-1]
		// A finished commit moves meta past the revision it was fenced with.
		if last.fence == s.Revision {
			last = version{}
			if len(versions) > 1 {
				last = versions[len(versions)-2]
			}
			torn = append(torn, Entry{key, last.value})
		}
		if len(last.value) > 0 {
			s.Entries[key] = last.value
		}
	}
	if len(torn) > 0 {
		if s.Revision, err = j.Commit(ctx, partition, s.Revision, torn, s.Meta); err != nil {
			return Snapshot{}, fmt.Errorf("undo half a commit of partition %d: %w", partition, err)
		}
	}
	return s, nil
}

// Commit stores entries and meta as one, if nobody has committed to the partition since revision; else ErrStale and
// nothing is stored. It returns the revision for the next commit. After any other error the outcome is unknown: drop what
// is in memory and Load.
func (j *Journal) Commit(ctx context.Context, partition int, revision uint64, entries []Entry, meta []byte) (uint64, error) {
	if err := checkCommit(partition, entries, meta); err != nil {
		return 0, err
	}
	if err := j.writable(); err != nil {
		return 0, j.wrap("commit", err)
	}
	ctx, cancel := withTimeout(ctx, stateTimeout)
	defer cancel()
	select {
	case j.commits <- struct{}{}:
		defer func() { <-j.commits }()
	case <-ctx.Done():
		return 0, j.wrap("commit", ctx.Err())
	}

	b := batch{id: rand.Text(), prefix: "st." + partitionToken(partition) + ".", fence: strconv.FormatUint(revision, 10)}
	for i, e := range entries {
		m := b.message(e.Key, e.Value)
		if i == 0 {
			// The engine answers a message that has a reply: ask once, so that a refused batch says why.
			if _, err := j.request(ctx, m); err != nil {
				return 0, j.wrap("begin commit", err)
			}
			continue
		}
		if err := j.conn.PublishMsg(m); err != nil {
			return 0, j.wrap("commit", err)
		}
	}
	m := b.message(metaKey, meta)
	m.Header["Nats-Batch-Commit"] = []string{"1"}
	m.Header["Nats-Expected-Last-Subject-Sequence"] = []string{b.fence}
	next, err := j.request(ctx, m)
	if err != nil {
		return 0, j.wrap(fmt.Sprintf("commit %d entries to partition %d", len(entries), partition), err)
	}
	return next, nil
}

// batch numbers the messages of one atomic batch (NATS ADR-50). It goes by headers: the client has no call for it.
type batch struct {
	id, prefix, fence string
	n                 int
}

func (b *batch) message(key string, value []byte) *nats.Msg {
	b.n++
	return &nats.Msg{Subject: b.prefix + key, Data: value, Header: nats.Header{
		"Nats-Batch-Id":       {b.id},
		"Nats-Batch-Sequence": {strconv.Itoa(b.n)},
		headerFence:           {b.fence},
	}}
}

// request publishes and reads the engine's answer: empty for a staged message, else the sequence of the last one.
func (j *Journal) request(ctx context.Context, m *nats.Msg) (uint64, error) {
	reply, err := j.conn.RequestMsgWithContext(ctx, m)
	if err != nil || len(reply.Data) == 0 {
		return 0, err
	}
	var ack struct {
		Seq   uint64              `json:"seq"`
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(reply.Data, &ack); err != nil {
		return 0, fmt.Errorf("read the engine's answer: %w", err)
	}
	if ack.Error == nil {
		return ack.Seq, nil
	}
	const wrongLast, wrongLastInFlight = 10071, 10164
	if c := ack.Error.ErrorCode; c == wrongLast || c == wrongLastInFlight {
		return 0, fmt.Errorf("%w: %s", ErrStale, ack.Error.Description)
	}
	return 0, ack.Error
}

func checkCommit(partition int, entries []Entry, meta []byte) error {
	if err := checkPartition(partition); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	if len(entries) > MaxEntries {
		return fmt.Errorf("commit %d entries: %w (at most %d)", len(entries), ErrTooLarge, MaxEntries)
	}
	if len(meta) == 0 || len(meta) > MaxValueBytes {
		return fmt.Errorf("commit meta of %d bytes: %w (1 to %d)", len(meta), ErrTooLarge, MaxValueBytes)
	}
	seen := make(map[string]bool, len(entries))
	for _, e := range entries {
		if err := checkKey(e.Key); err != nil {
			return err
		}
		if seen[e.Key] {
			return fmt.Errorf("commit: key %q twice", e.Key)
		}
		seen[e.Key] = true
		if len(e.Value) > MaxValueBytes {
			return fmt.Errorf("commit %d bytes as %q: %w (at most %d)", len(e.Value), e.Key, ErrTooLarge, MaxValueBytes)
		}
	}
	return nil
}

// checkKey keeps a key a plain subject: tokens of printable ASCII, no wildcard.
func checkKey(key string) error {
	bad := key == "" || key == metaKey || len(key) > 200 || key[0] == '.' || key[len(key)-1] == '.' || strings.Contains(key, "..")
	for i := 0; i < len(key) && !bad; i++ {
		bad = key[i] <= ' ' || key[i] >= 0x7f || key[i] == '*' || key[i] == '>'
	}
	if bad {
		return errors.New("commit: key " + strconv.Quote(key) + " is no dotted name")
	}
	return nil
}
