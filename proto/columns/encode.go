package columns

import (
	"slices"

	"github.com/klauspost/compress/zstd"
	v1 "github.com/spile/spile/proto/spile/v1"
	"google.golang.org/protobuf/proto"
)

// Encoder makes payloads. It keeps its memory between batches.
type Encoder struct {
	zstd  *zstd.Encoder
	batch *Batch // of Encode
	last  map[uint32]uint32
	raw   []byte
}

// NewEncoder makes an encoder that compresses on the calling goroutine.
func NewEncoder() (*Encoder, error) {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedDefault),
		zstd.WithEncoderCRC(false), zstd.WithAllLitEntropyCompression(true), zstd.WithWindowSize(1<<20), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, err
	}
	return &Encoder{zstd: z, last: map[uint32]uint32{}}, nil
}

// Encode appends the payload of calls to dst. It fails with a *CallError for a call that Check
// refuses and with ErrTooLarge; then dst is unchanged.
func (e *Encoder) Encode(dst []byte, calls []*v1.Call) ([]byte, error) {
	if len(calls) > MaxCalls {
		return dst, ErrTooLarge
	}
	if e.batch == nil {
		e.batch = NewBatch()
	}
	e.batch.Reset()
	for i, c := range calls {
		if err := e.batch.Add(c); err != nil {
			return dst, &CallError{Index: i, Err: err}
		}
	}
	return e.Finish(dst, e.batch)
}

// Finish appends the payload of a batch to dst. It spends the batch, which is to be Reset. Where it fails, dst is unchanged.
func (e *Encoder) Finish(dst []byte, b *Batch) ([]byte, error) {
	col, count := &b.col, b.Len()
	base := uint32(len(col.Strings))
	columns := b.uint32s()
	for _, column := range columns[:textColumns] {
		for i, v := range *column {
			if v&hashFlag != 0 {
				(*column)[i] = v&^hashFlag + base
			}
		}
	}
	for _, column := range []*[]uint32{&col.SourceCoverages, &col.DestinationCoverages} {
		if !slices.ContainsFunc(*column, func(v uint32) bool { return v != 0 }) {
			*column = (*column)[:0]
		}
	}
	predict(col, e.last)
	b.units()
	text := &v1.Columns{Version: version, Count: uint32(count), TimeUnit: col.TimeUnit, Strings: col.Strings,
		Peers: b.peers.entries, Auths: b.auths.entries, Tlss: b.tlss.entries, Contents: b.content.entries,
		SignatureSets: b.sigs.entries}
	random := &v1.Columns{Ids: col.Ids, Hashes: col.Hashes}
	spread := &v1.Columns{Times: col.Times, Durations: col.Durations, RequestBytes: col.RequestBytes,
		ResponseBytes: col.ResponseBytes, SourcePorts: col.SourcePorts, Principals: col.Principals}
	skewed := &v1.Columns{Nodes: col.Nodes, Protocols: col.Protocols, Schemes: col.Schemes, Methods: col.Methods, Authorities: col.Authorities,
		PathSegments: col.PathSegments, Routes: col.Routes, Services: col.Services, Sessions: col.Sessions, Coverages: col.Coverages, Credentials: col.Credentials, FieldHashes: col.FieldHashes,
		Observed: col.Observed, PathLengths: col.PathLengths, Statuses: col.Statuses, Sources: col.Sources,
		Destinations: col.Destinations, KeyEpochs: col.KeyEpochs, Auth: col.Auth, Tls: col.Tls,
		Requests: col.Requests, Responses: col.Responses, Signatures: col.Signatures, RequestRecords: col.RequestRecords,
		ResponseRecords: col.ResponseRecords, FieldLengths: col.FieldLengths, FieldCounts: col.FieldCounts,
		SourceCoverages: col.SourceCoverages, DestinationCoverages: col.DestinationCoverages}
	out, total := dst, 0
	for _, part := range []*v1.Columns{text, skewed, spread, random} {
		raw, err := proto.MarshalOptions{}.MarshalAppend(e.raw[:0], part)
		if err != nil {
			return dst, err
		}
		e.raw = raw
		if total += len(raw); total > MaxBytes {
			return dst, ErrTooLarge
		}
		out = e.zstd.EncodeAll(raw, out)
	}
	return out, nil
}

// units writes times and durations in microseconds where every one of them is whole.
func (b *Batch) units() {
	unit := int64(1000)
	for i, ns := range b.nanos {
		if span := b.spans[i]; ns%unit != 0 || span > 0 && span%unit != 0 {
			unit = 1
			break
		}
	}
	b.col.TimeUnit = uint32(unit)
	last := int64(0)
	for i, ns := range b.nanos {
		b.col.Times = append(b.col.Times, ns/unit-last)
		last = ns / unit
		span := uint64(0)
		if b.spans[i] >= 0 {
			span = uint64(b.spans[i]/unit) + 1
		}
		b.col.Durations = append(b.col.Durations, span)
	}
}
