package columns

import (
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	v1 "github.com/spile/spile/proto/spile/v1"
	"google.golang.org/protobuf/proto"
)

// hashFlag marks an index into hashes until the number of strings is known.
const hashFlag = 1 << 31

// Encoder makes payloads. It keeps its dictionaries' memory between batches.
type Encoder struct {
	zstd *zstd.Encoder

	col     v1.Columns
	strings map[string]uint32
	hashes  map[[hashBytes]byte]uint32
	peers   dictionary
	auths   dictionary
	tlss    dictionary
	content dictionary
	sigs    dictionary
	last    map[uint32]uint32
	scratch []byte
	raw     []byte
	nanos   []int64
	spans   []int64
	// latest are texts that most calls have in common with the one before.
	latest struct{ node, protocol, scheme, method, authority numbered }
	texts  bool // of the call at hand all are fit to be sent
}

// NewEncoder makes an encoder that compresses on the calling goroutine.
func NewEncoder() (*Encoder, error) {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedDefault),
		zstd.WithEncoderCRC(false), zstd.WithAllLitEntropyCompression(true), zstd.WithWindowSize(1<<20), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, err
	}
	return &Encoder{zstd: z, last: map[uint32]uint32{}, strings: map[string]uint32{}, hashes: map[[hashBytes]byte]uint32{},
		peers: dictionary{index: map[string]uint32{}}, auths: dictionary{index: map[string]uint32{}},
		tlss: dictionary{index: map[string]uint32{}}, content: dictionary{index: map[string]uint32{}},
		sigs: dictionary{index: map[string]uint32{}}}, nil
}

// numbered is a text and its number in the batch.
type numbered struct {
	text  string
	index uint32
}

// dictionary numbers distinct serialized messages from 1; 0 is an absent message.
type dictionary struct {
	index   map[string]uint32
	entries [][]byte
}

func (d *dictionary) put(b []byte) (i uint32, first bool) {
	if i, ok := d.index[string(b)]; ok {
		return i, false
	}
	key := string(b)
	d.entries = append(d.entries, []byte(key))
	i = uint32(len(d.entries))
	d.index[key] = i
	return i, true
}

func (d *dictionary) reset() {
	clear(d.index)
	clear(d.entries)
	d.entries = d.entries[:0]
}

// Encode appends the payload of calls to dst. It fails with a *CallError for a call that Check
// refuses and with ErrTooLarge; then dst is unchanged.
func (e *Encoder) Encode(dst []byte, calls []*v1.Call) ([]byte, error) {
	if len(calls) > MaxCalls {
		return dst, ErrTooLarge
	}
	e.reset()
	for i, c := range calls {
		if err := checkNumbers(c); err != nil {
			return dst, &CallError{Index: i, Err: err}
		}
		// Texts are checked when they come for the first time in a batch, which few do.
		e.texts = true
		if e.add(c); !e.texts {
			return dst, &CallError{Index: i, Err: errUTF8}
		}
	}
	return e.finish(dst, len(calls))
}

func (e *Encoder) reset() {
	c := &e.col
	clear(c.Strings)
	c.Strings = append(c.Strings[:0], "")
	c.Ids, c.Hashes = c.Ids[:0], c.Hashes[:0]
	c.Times, c.Durations = c.Times[:0], c.Durations[:0]
	for _, column := range e.uint32s() {
		*column = (*column)[:0]
	}
	c.RequestBytes, c.ResponseBytes = c.RequestBytes[:0], c.ResponseBytes[:0]
	e.nanos, e.spans = e.nanos[:0], e.spans[:0]
	e.latest.node, e.latest.protocol, e.latest.scheme, e.latest.method, e.latest.authority = numbered{}, numbered{}, numbered{}, numbered{}, numbered{}
	clear(e.strings)
	clear(e.hashes)
	e.strings[""] = 0
	for _, d := range []*dictionary{&e.peers, &e.auths, &e.tlss, &e.content, &e.sigs} {
		d.reset()
	}
}

// uint32s lists the columns of 32-bit numbers; the first textColumns of them index strings.
func (e *Encoder) uint32s() []*[]uint32 {
	c := &e.col
	return []*[]uint32{&c.Nodes, &c.Protocols, &c.Schemes, &c.Methods, &c.Authorities, &c.PathSegments, &c.Routes,
		&c.Services, &c.Principals, &c.Sessions, &c.Coverages, &c.Credentials, &c.FieldHashes,
		&c.Observed, &c.PathLengths, &c.Statuses, &c.Sources, &c.SourcePorts, &c.Destinations, &c.KeyEpochs,
		&c.Auth, &c.Tls, &c.Requests, &c.Responses, &c.Signatures, &c.RequestRecords, &c.ResponseRecords,
		&c.FieldLengths, &c.FieldCounts, &c.SourceCoverages, &c.DestinationCoverages}
}

const textColumns = 13

func (e *Encoder) add(c *v1.Call) {
	col := &e.col
	var id [idBytes]byte
	unhex(id[:], c.Id)
	col.Ids = append(col.Ids, id[:]...)
	ns, _ := unixNanos(c.Time)
	e.nanos = append(e.nanos, ns)
	span := int64(-1)
	if d := c.Duration; d != nil {
		span = d.Seconds*1e9 + int64(d.Nanos)
	}
	e.spans = append(e.spans, span)
	col.Nodes = append(col.Nodes, e.again(&e.latest.node, c.Node))
	col.Observed = append(col.Observed, uint32(c.Observed))
	col.Protocols = append(col.Protocols, e.again(&e.latest.protocol, c.Protocol))
	col.Schemes = append(col.Schemes, e.again(&e.latest.scheme, c.Scheme))
	col.Methods = append(col.Methods, e.again(&e.latest.method, c.Method))
	col.Authorities = append(col.Authorities, e.again(&e.latest.authority, c.Authority))
	e.addPath(c.Path)
	col.Routes = append(col.Routes, e.text(c.Route))
	col.Statuses = append(col.Statuses, c.StatusCode)
	col.Services = append(col.Services, e.text(c.Service))
	e.addPeers(c)
	col.Principals = append(col.Principals, e.text(c.Principal))
	col.Sessions = append(col.Sessions, e.text(c.Session))
	col.KeyEpochs = append(col.KeyEpochs, c.KeyEpoch)
	var auth uint32
	if c.Auth != nil {
		e.scratch = appendAuth(e.scratch[:0], c.Auth)
		auth = e.put(&e.auths, func() bool { return authOK(c.Auth) })
	}
	col.Auth = append(col.Auth, auth)
	col.Credentials = append(col.Credentials, e.text(c.Auth.GetCredential()))
	var tls uint32
	if c.Tls != nil {
		e.scratch = appendTLS(e.scratch[:0], c.Tls)
		tls = e.put(&e.tlss, func() bool { return tlsOK(c.Tls) })
	}
	col.Tls = append(col.Tls, tls)
	index, size := e.addContent(c.Request)
	col.Requests = append(col.Requests, index)
	col.RequestBytes = append(col.RequestBytes, size)
	col.RequestRecords = append(col.RequestRecords, c.Request.GetRecords())
	index, size = e.addContent(c.Response)
	col.Responses = append(col.Responses, index)
	col.ResponseBytes = append(col.ResponseBytes, size)
	col.ResponseRecords = append(col.ResponseRecords, c.Response.GetRecords())
	var sigs uint32
	if len(c.Signatures) > 0 {
		e.scratch = appendSignatures(e.scratch[:0], c.Signatures)
		sigs = e.put(&e.sigs, func() bool { return signaturesOK(c.Signatures) })
	}
	col.Signatures = append(col.Signatures, sigs)
	coverage := uint32(0)
	switch len(c.Coverage) {
	case 0:
	case 1:
		coverage = e.text(c.Coverage[0])
	default:
		ok := e.texts && textOK(c.Coverage...) // each by itself: joined they may be longer
		coverage = e.text(strings.Join(c.Coverage, ","))
		e.texts = ok
	}
	col.Coverages = append(col.Coverages, coverage)
}

func (e *Encoder) addPeers(c *v1.Call) {
	var source, destination uint32
	if c.Source != nil {
		e.scratch = appendPeer(e.scratch[:0], c.Source, false)
		source = e.put(&e.peers, func() bool { return peerOK(c.Source) })
	}
	if c.Destination != nil {
		e.scratch = appendPeer(e.scratch[:0], c.Destination, true)
		destination = e.put(&e.peers, func() bool { return peerOK(c.Destination) })
	}
	e.col.Sources = append(e.col.Sources, source)
	e.col.SourcePorts = append(e.col.SourcePorts, c.Source.GetPort())
	e.col.Destinations = append(e.col.Destinations, destination)
	e.col.SourceCoverages = append(e.col.SourceCoverages, thousandths(c.Source))
	e.col.DestinationCoverages = append(e.col.DestinationCoverages, thousandths(c.Destination))
}

// addPath splits at "/", so that n slashes make n+1 segments and joining restores every path.
// The empty path is 0 segments.
func (e *Encoder) addPath(path string) {
	n := uint32(0)
	e.texts = e.texts && len(path) <= maxStringBytes
	for rest, more := path, path != ""; more; n++ {
		var segment string
		segment, rest, more = strings.Cut(rest, "/")
		e.col.PathSegments = append(e.col.PathSegments, e.text(segment))
	}
	e.col.PathLengths = append(e.col.PathLengths, n)
}

func (e *Encoder) addContent(c *v1.Content) (index uint32, bytesPlus1 uint64) {
	if c == nil {
		return 0, 0
	}
	for _, f := range c.Fields {
		e.col.FieldHashes = append(e.col.FieldHashes, e.text(f.Hash))
		e.col.FieldLengths = append(e.col.FieldLengths, f.Length)
		e.col.FieldCounts = append(e.col.FieldCounts, f.Count)
	}
	if c.Bytes != nil {
		bytesPlus1 = *c.Bytes + 1
	}
	e.scratch = appendContent(e.scratch[:0], c)
	return e.put(&e.content, func() bool { return contentOK(c) }), bytesPlus1
}

// put numbers the message in scratch; ok tells of its texts, where it is new.
func (e *Encoder) put(d *dictionary, ok func() bool) uint32 {
	i, first := d.put(e.scratch)
	if first {
		e.texts = e.texts && ok()
	}
	return i
}

// again is text for a column that seldom changes.
func (e *Encoder) again(last *numbered, s string) uint32 {
	if s != last.text {
		*last = numbered{s, e.text(s)}
	}
	return last.index
}

// text numbers a string; a keyed hash goes to its own table as raw bytes.
func (e *Encoder) text(s string) uint32 {
	if s == "" {
		return 0
	}
	var h [hashBytes]byte
	if len(s) == 2+2*hashBytes && s[0] == 'h' && s[1] == ':' && unhex(h[:], s[2:]) {
		i, ok := e.hashes[h]
		if !ok {
			i = uint32(len(e.hashes)) | hashFlag
			e.hashes[h] = i
			e.col.Hashes = append(e.col.Hashes, h[:]...)
		}
		return i
	}
	i, ok := e.strings[s]
	if !ok {
		e.texts = e.texts && textOK(s)
		i = uint32(len(e.col.Strings))
		e.strings[s] = i
		e.col.Strings = append(e.col.Strings, s)
	}
	return i
}

func (e *Encoder) finish(dst []byte, count int) ([]byte, error) {
	col := &e.col
	base := uint32(len(col.Strings))
	columns := e.uint32s()
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
	e.units()
	text := &v1.Columns{Version: version, Count: uint32(count), TimeUnit: col.TimeUnit, Strings: col.Strings,
		Peers: e.peers.entries, Auths: e.auths.entries, Tlss: e.tlss.entries, Contents: e.content.entries,
		SignatureSets: e.sigs.entries}
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
func (e *Encoder) units() {
	unit := int64(1000)
	for i, ns := range e.nanos {
		if span := e.spans[i]; ns%unit != 0 || span > 0 && span%unit != 0 {
			unit = 1
			break
		}
	}
	e.col.TimeUnit = uint32(unit)
	last := int64(0)
	for i, ns := range e.nanos {
		e.col.Times = append(e.col.Times, ns/unit-last)
		last = ns / unit
		span := uint64(0)
		if e.spans[i] >= 0 {
			span = uint64(e.spans[i]/unit) + 1
		}
		e.col.Durations = append(e.col.Durations, span)
	}
}
