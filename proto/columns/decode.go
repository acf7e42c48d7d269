package columns

import (
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/klauspost/compress/zstd"
	v1 "github.com/spile/spile/proto/spile/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Decoder reads payloads. It keeps its decompression buffer between batches.
type Decoder struct {
	zstd *zstd.Decoder
	raw  []byte
}

// NewDecoder makes a decoder that works on the calling goroutine and within MaxBytes.
func NewDecoder() (*Decoder, error) {
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(MaxBytes), zstd.WithDecoderMaxWindow(MaxBytes))
	if err != nil {
		return nil, err
	}
	return &Decoder{zstd: z}, nil
}

// Decode restores the calls of a payload. Calls of one batch may share messages that are equal in
// all of them (destination, tls, jwt, signatures, coverage, lists and maps of contents): treat these as read-only
// or clone them.
func (d *Decoder) Decode(payload []byte) ([]*v1.Call, error) {
	raw, err := d.zstd.DecodeAll(payload, d.raw[:0])
	if err != nil {
		return nil, fmt.Errorf("%w: decompress: %w", ErrMalformed, err)
	}
	if cap(raw) <= 1<<20 {
		d.raw = raw // One huge batch must not pin its buffer.
	}
	if len(raw) > MaxBytes {
		return nil, ErrTooLarge
	}
	if tags(raw, 0, maxTags) > maxTags {
		return nil, ErrTooLarge
	}
	var col v1.Columns
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(raw, &col); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	r := reader{col: &col}
	if err := r.open(); err != nil {
		return nil, err
	}
	calls := make([]*v1.Call, 0, col.Count)
	for i := range int(col.Count) {
		calls = append(calls, r.call(i))
		if r.err != nil {
			return nil, fmt.Errorf("decode call %d: %w", i, r.err)
		}
	}
	if r.segment != len(col.PathSegments) || r.field != len(col.FieldHashes) {
		return nil, malformed("segments or fields left over")
	}
	return calls, nil
}

// reader walks the columns; the first error stays in err and everything after reads as zero.
type reader struct {
	col      *v1.Columns
	peers    []*v1.Peer
	auths    []*v1.Auth
	tlss     []*v1.Tls
	contents []*v1.Content
	sigs     [][]*v1.Signature
	coverage map[uint32][]string
	covered  map[covered]*v1.Peer

	hashes        int
	nanos         int64
	segment       int
	field         int
	expandedBytes int
	path          strings.Builder
	err           error
}

func (r *reader) open() error {
	col := r.col
	if col.Version != version {
		return fmt.Errorf("%w: %d", ErrVersion, col.Version)
	}
	if col.Count > MaxCalls {
		return ErrTooLarge
	}
	if col.TimeUnit != 1 && col.TimeUnit != 1000 {
		return malformed("time unit %d", col.TimeUnit)
	}
	if len(col.Strings) == 0 || col.Strings[0] != "" {
		return malformed("strings do not begin with the empty one")
	}
	if len(col.Hashes)%hashBytes != 0 {
		return malformed("%d bytes of hashes", len(col.Hashes))
	}
	r.hashes = len(col.Hashes) / hashBytes
	if err := r.lengths(); err != nil {
		return err
	}
	restore(col)
	r.coverage, r.covered = map[uint32][]string{}, map[covered]*v1.Peer{}
	return r.dictionaries()
}

func (r *reader) lengths() error {
	col, n := r.col, int(r.col.Count)
	if len(col.Ids) != n*idBytes {
		return malformed("%d bytes of ids for %d calls", len(col.Ids), n)
	}
	for _, c := range []struct {
		name string
		len  int
	}{
		{"times", len(col.Times)}, {"durations", len(col.Durations)}, {"nodes", len(col.Nodes)}, {"observed", len(col.Observed)},
		{"protocols", len(col.Protocols)}, {"schemes", len(col.Schemes)}, {"methods", len(col.Methods)},
		{"authorities", len(col.Authorities)}, {"path_lengths", len(col.PathLengths)}, {"routes", len(col.Routes)},
		{"statuses", len(col.Statuses)}, {"services", len(col.Services)}, {"sources", len(col.Sources)},
		{"source_ports", len(col.SourcePorts)}, {"destinations", len(col.Destinations)}, {"principals", len(col.Principals)},
		{"sessions", len(col.Sessions)}, {"key_epochs", len(col.KeyEpochs)}, {"auth", len(col.Auth)}, {"tls", len(col.Tls)},
		{"requests", len(col.Requests)}, {"responses", len(col.Responses)}, {"request_bytes", len(col.RequestBytes)},
		{"response_bytes", len(col.ResponseBytes)}, {"signatures", len(col.Signatures)}, {"coverages", len(col.Coverages)},
		{"credentials", len(col.Credentials)}, {"request_records", len(col.RequestRecords)},
		{"response_records", len(col.ResponseRecords)},
	} {
		if c.len != n {
			return malformed("column %s has %d entries for %d calls", c.name, c.len, n)
		}
	}
	// Encoders before coverage wrote none, and so do later ones where no call has it.
	for _, column := range [][]uint32{col.SourceCoverages, col.DestinationCoverages} {
		if len(column) != 0 && len(column) != n {
			return malformed("column of coverages has %d entries for %d calls", len(column), n)
		}
	}
	if f := len(col.FieldHashes); f != len(col.FieldLengths) || f != len(col.FieldCounts) {
		return malformed("field columns differ in length")
	}
	return nil
}

func (r *reader) dictionaries() error {
	var err error
	if r.peers, err = unmarshalAll(r.col.Peers, func() *v1.Peer { return new(v1.Peer) }); err != nil {
		return err
	}
	for _, p := range r.peers {
		if p.Coverage != nil {
			return malformed("coverage of a peer outside its column")
		}
	}
	if r.auths, err = unmarshalAll(r.col.Auths, func() *v1.Auth { return new(v1.Auth) }); err != nil {
		return err
	}
	if r.tlss, err = unmarshalAll(r.col.Tlss, func() *v1.Tls { return new(v1.Tls) }); err != nil {
		return err
	}
	if r.contents, err = unmarshalAll(r.col.Contents, func() *v1.Content { return new(v1.Content) }); err != nil {
		return err
	}
	sets, err := unmarshalAll(r.col.SignatureSets, func() *v1.Call { return new(v1.Call) })
	if err != nil {
		return err
	}
	for _, s := range sets {
		r.sigs = append(r.sigs, s.Signatures)
	}
	return nil
}

// maxEntries bounds a dictionary: no call needs more than one new source, destination, request and
// response, so more entries are an attempt to make a decoder allocate.
const maxEntries = 2 * MaxCalls

func unmarshalAll[M proto.Message](list [][]byte, make func() M) ([]M, error) {
	if len(list) > maxEntries {
		return nil, ErrTooLarge
	}
	out, left := []M(nil), maxTags
	for _, b := range list {
		// Depth 1 sees the lists inside Jwt; text that looks like fields only counts as more.
		if left -= 1 + tags(b, 1, left); left < 0 {
			return nil, ErrTooLarge
		}
		m := make()
		if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(b, m); err != nil {
			return nil, fmt.Errorf("%w: dictionary: %w", ErrMalformed, err)
		}
		out = append(out, m)
	}
	return out, nil
}

func (r *reader) call(i int) *v1.Call {
	col := r.col
	c := &v1.Call{
		Id:         hex.EncodeToString(col.Ids[i*idBytes : (i+1)*idBytes]),
		Time:       r.time(col.Times[i]),
		Duration:   r.duration(col.Durations[i]),
		Node:       r.text(col.Nodes[i]),
		Observed:   v1.Observed(int32(col.Observed[i])),
		Protocol:   r.text(col.Protocols[i]),
		Scheme:     r.text(col.Schemes[i]),
		Method:     r.text(col.Methods[i]),
		Authority:  r.text(col.Authorities[i]),
		Path:       r.pathOf(col.PathLengths[i]),
		Route:      r.text(col.Routes[i]),
		StatusCode: col.Statuses[i],
		Service:    r.text(col.Services[i]),
		Source:     r.source(col.Sources[i], col.SourcePorts[i], at(col.SourceCoverages, i)),
		Principal:  r.text(col.Principals[i]),
		Session:    r.text(col.Sessions[i]),
		KeyEpoch:   col.KeyEpochs[i],
		Auth:       r.auth(col.Auth[i], col.Credentials[i]),
		Tls:        pick(r, r.tlss, col.Tls[i]),
		Request:    r.content(col.Requests[i], col.RequestBytes[i], col.RequestRecords[i]),
		Response:   r.content(col.Responses[i], col.ResponseBytes[i], col.ResponseRecords[i]),
		Coverage:   r.flags(col.Coverages[i]),
	}
	c.Destination = r.destination(col.Destinations[i], at(col.DestinationCoverages, i))
	c.Signatures = pick(r, r.sigs, col.Signatures[i])
	if c.Observed < 0 {
		r.fail("observed %d", c.Observed)
	}
	return c
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = malformed(format, args...)
	}
}

func (r *reader) text(i uint32) string {
	n := uint32(len(r.col.Strings))
	if i < n {
		return r.col.Strings[i]
	}
	if i -= n; i < uint32(r.hashes) {
		var b [2 + 2*hashBytes]byte
		b[0], b[1] = 'h', ':'
		hex.Encode(b[2:], r.col.Hashes[i*hashBytes:(i+1)*hashBytes])
		return string(b[:])
	}
	r.fail("string %d of %d", i, n)
	return ""
}

func (r *reader) time(delta int64) *timestamppb.Timestamp {
	r.nanos += delta
	ns := r.nanos * int64(r.col.TimeUnit)
	if ns/int64(r.col.TimeUnit) != r.nanos {
		r.fail("time overflows")
		return nil
	}
	s, n := ns/1e9, ns%1e9
	if n < 0 {
		s, n = s-1, n+1e9
	}
	return &timestamppb.Timestamp{Seconds: s, Nanos: int32(n)}
}

func (r *reader) duration(plus1 uint64) *durationpb.Duration {
	if plus1 == 0 {
		return nil
	}
	v := plus1 - 1
	if v > (1<<63-1)/uint64(r.col.TimeUnit) {
		r.fail("duration overflows")
		return nil
	}
	ns := int64(v) * int64(r.col.TimeUnit)
	return &durationpb.Duration{Seconds: ns / 1e9, Nanos: int32(ns % 1e9)}
}

func (r *reader) pathOf(n uint32) string {
	if int64(n) > int64(len(r.col.PathSegments)-r.segment) {
		r.fail("path of %d segments", n)
		return ""
	}
	r.path.Reset()
	for i := range int(n) {
		if i > 0 {
			r.path.WriteByte('/')
		}
		r.path.WriteString(r.text(r.col.PathSegments[r.segment+i]))
		if r.path.Len() > maxStringBytes {
			r.fail("path exceeds %d bytes", maxStringBytes)
			return ""
		}
	}
	r.segment += int(n)
	r.expand(r.path.Len())
	return r.path.String()
}

// expand counts what copies made from the dictionaries cost.
func (r *reader) expand(bytes int) {
	if r.expandedBytes += bytes; r.expandedBytes > maxExpandedBytes && r.err == nil {
		r.err = ErrTooLarge
	}
}

func pick[T any](r *reader, list []T, i uint32) T {
	var none T
	if i == 0 {
		return none
	}
	if int64(i) > int64(len(list)) {
		r.fail("entry %d of %d", i, len(list))
		return none
	}
	return list[i-1]
}

// at is an entry of a column that may be missing as a whole.
func at(column []uint32, i int) uint32 {
	if len(column) == 0 {
		return 0
	}
	return column[i]
}

func (r *reader) flags(i uint32) []string {
	if i == 0 {
		return nil
	}
	list, ok := r.coverage[i]
	if !ok {
		list = strings.Split(r.text(i), ",")
		r.coverage[i] = list
	}
	return list
}
