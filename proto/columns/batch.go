package columns

import (
	"slices"
	"strings"

	v1 "github.com/spile/spile/proto/spile/v1"
)

// hashFlag marks an index into hashes until the number of strings is known.
const hashFlag = 1 << 31

const (
	lengthBytes = 6 // tag and length of an entry
	varintBytes = 5 // of a number in a column
	// callBytes is what a call may add to the columns without its texts, segments and fields.
	callBytes = idBytes + 32*varintBytes + 4*10
)

// Batch collects the calls of one payload, column by column. It keeps nothing of a call but its texts.
type Batch struct {
	col     v1.Columns
	strings map[string]uint32
	hashes  map[[hashBytes]byte]uint32
	peers   dictionary
	auths   dictionary
	tlss    dictionary
	content dictionary
	sigs    dictionary
	scratch []byte
	nanos   []int64
	spans   []int64
	bytes   int
	before  mark // the call that came last
	// latest are texts that most calls have in common with the one before.
	latest struct{ node, protocol, scheme, method, authority numbered }
	texts  bool // of the call at hand all are fit to be sent
}

// NewBatch makes an empty batch.
func NewBatch() *Batch {
	b := &Batch{strings: map[string]uint32{}, hashes: map[[hashBytes]byte]uint32{},
		peers: dictionary{index: map[string]uint32{}}, auths: dictionary{index: map[string]uint32{}},
		tlss: dictionary{index: map[string]uint32{}}, content: dictionary{index: map[string]uint32{}},
		sigs: dictionary{index: map[string]uint32{}}}
	b.Reset()
	return b
}

// Len is how many calls there are.
func (b *Batch) Len() int { return len(b.nanos) }

// Size is how many bytes the payload has at most before it is compressed, but for a few that every payload has.
func (b *Batch) Size() int { return b.bytes + callBytes*b.Len() }

// Add takes a call, of which nothing is kept but texts. One that Check refuses leaves the batch as it was.
func (b *Batch) Add(c *v1.Call) error {
	if b.Len() >= MaxCalls {
		return ErrTooLarge
	}
	if err := checkNumbers(c); err != nil {
		return err
	}
	b.before = b.mark()
	// Texts are checked when they come for the first time in a batch, which few do.
	b.texts = true
	if b.add(c); !b.texts {
		b.Undo()
		return errUTF8
	}
	return nil
}

// mark is where a call begins in the columns that have more or less than one entry for each.
type mark struct {
	calls, strings, hashes, segments, fields, bytes int
	entries                                         [5]int // of the dictionaries
}

func (b *Batch) dictionaries() [5]*dictionary {
	return [5]*dictionary{&b.peers, &b.auths, &b.tlss, &b.content, &b.sigs}
}

func (b *Batch) mark() mark {
	return mark{
		calls: b.Len(), strings: len(b.col.Strings), hashes: len(b.col.Hashes), segments: len(b.col.PathSegments), fields: len(b.col.FieldHashes), bytes: b.bytes,
		entries: [5]int{len(b.peers.entries), len(b.auths.entries), len(b.tlss.entries), len(b.content.entries), len(b.sigs.entries)},
	}
}

// Undo takes back the call that was added last. It can do so once.
func (b *Batch) Undo() {
	m, c := b.before, &b.col
	for _, s := range c.Strings[m.strings:] {
		delete(b.strings, s)
	}
	for h := range slices.Chunk(c.Hashes[m.hashes:], hashBytes) {
		delete(b.hashes, [hashBytes]byte(h))
	}
	for i, d := range b.dictionaries() {
		for _, entry := range d.entries[m.entries[i]:] {
			delete(d.index, string(entry))
		}
		d.entries = d.entries[:m.entries[i]]
	}
	segments, hashes, lengths, counts := c.PathSegments[:m.segments], c.FieldHashes[:m.fields], c.FieldLengths[:m.fields], c.FieldCounts[:m.fields]
	for _, column := range b.uint32s() {
		*column = (*column)[:min(m.calls, len(*column))]
	}
	c.PathSegments, c.FieldHashes, c.FieldLengths, c.FieldCounts = segments, hashes, lengths, counts
	c.Strings, c.Hashes, c.Ids = c.Strings[:m.strings], c.Hashes[:m.hashes], c.Ids[:m.calls*idBytes]
	c.RequestBytes, c.ResponseBytes = c.RequestBytes[:m.calls], c.ResponseBytes[:m.calls]
	b.nanos, b.spans, b.bytes = b.nanos[:m.calls], b.spans[:m.calls], m.bytes
	b.latest.node, b.latest.protocol, b.latest.scheme, b.latest.method, b.latest.authority = numbered{}, numbered{}, numbered{}, numbered{}, numbered{}
}

// Reset empties the batch. It keeps the memory.
func (b *Batch) Reset() {
	b.bytes = 0
	c := &b.col
	clear(c.Strings)
	c.Strings = append(c.Strings[:0], "")
	c.Ids, c.Hashes = c.Ids[:0], c.Hashes[:0]
	c.Times, c.Durations = c.Times[:0], c.Durations[:0]
	for _, column := range b.uint32s() {
		*column = (*column)[:0]
	}
	c.RequestBytes, c.ResponseBytes = c.RequestBytes[:0], c.ResponseBytes[:0]
	b.nanos, b.spans = b.nanos[:0], b.spans[:0]
	b.latest.node, b.latest.protocol, b.latest.scheme, b.latest.method, b.latest.authority = numbered{}, numbered{}, numbered{}, numbered{}, numbered{}
	clear(b.strings)
	clear(b.hashes)
	b.strings[""] = 0
	for _, d := range []*dictionary{&b.peers, &b.auths, &b.tlss, &b.content, &b.sigs} {
		d.reset()
	}
}

// uint32s lists the columns of 32-bit numbers; the first textColumns of them index strings.
func (b *Batch) uint32s() []*[]uint32 {
	c := &b.col
	return []*[]uint32{&c.Nodes, &c.Protocols, &c.Schemes, &c.Methods, &c.Authorities, &c.PathSegments, &c.Routes,
		&c.Services, &c.Principals, &c.Sessions, &c.Coverages, &c.Credentials, &c.FieldHashes,
		&c.Observed, &c.PathLengths, &c.Statuses, &c.Sources, &c.SourcePorts, &c.Destinations, &c.KeyEpochs,
		&c.Auth, &c.Tls, &c.Requests, &c.Responses, &c.Signatures, &c.RequestRecords, &c.ResponseRecords,
		&c.FieldLengths, &c.FieldCounts, &c.SourceCoverages, &c.DestinationCoverages}
}

const textColumns = 13

func (b *Batch) add(c *v1.Call) {
	col := &b.col
	var id [idBytes]byte
	unhex(id[:], c.Id)
	col.Ids = append(col.Ids, id[:]...)
	ns, _ := unixNanos(c.Time)
	b.nanos = append(b.nanos, ns)
	span := int64(-1)
	if d := c.Duration; d != nil {
		span = d.Seconds*1e9 + int64(d.Nanos)
	}
	b.spans = append(b.spans, span)
	col.Nodes = append(col.Nodes, b.again(&b.latest.node, c.Node))
	col.Observed = append(col.Observed, uint32(c.Observed))
	col.Protocols = append(col.Protocols, b.again(&b.latest.protocol, c.Protocol))
	col.Schemes = append(col.Schemes, b.again(&b.latest.scheme, c.Scheme))
	col.Methods = append(col.Methods, b.again(&b.latest.method, c.Method))
	col.Authorities = append(col.Authorities, b.again(&b.latest.authority, c.Authority))
	b.addPath(c.Path)
	col.Routes = append(col.Routes, b.text(c.Route))
	col.Statuses = append(col.Statuses, c.StatusCode)
	col.Services = append(col.Services, b.text(c.Service))
	b.addPeers(c)
	col.Principals = append(col.Principals, b.text(c.Principal))
	col.Sessions = append(col.Sessions, b.text(c.Session))
	col.KeyEpochs = append(col.KeyEpochs, c.KeyEpoch)
	var auth uint32
	if c.Auth != nil {
		b.scratch = appendAuth(b.scratch[:0], c.Auth)
		auth = b.put(&b.auths, func() bool { return authOK(c.Auth) })
	}
	col.Auth = append(col.Auth, auth)
	col.Credentials = append(col.Credentials, b.text(c.Auth.GetCredential()))
	var tls uint32
	if c.Tls != nil {
		b.scratch = appendTLS(b.scratch[:0], c.Tls)
		tls = b.put(&b.tlss, func() bool { return tlsOK(c.Tls) })
	}
	col.Tls = append(col.Tls, tls)
	index, size := b.addContent(c.Request)
	col.Requests = append(col.Requests, index)
	col.RequestBytes = append(col.RequestBytes, size)
	col.RequestRecords = append(col.RequestRecords, c.Request.GetRecords())
	index, size = b.addContent(c.Response)
	col.Responses = append(col.Responses, index)
	col.ResponseBytes = append(col.ResponseBytes, size)
	col.ResponseRecords = append(col.ResponseRecords, c.Response.GetRecords())
	var sigs uint32
	if len(c.Signatures) > 0 {
		b.scratch = appendSignatures(b.scratch[:0], c.Signatures)
		sigs = b.put(&b.sigs, func() bool { return signaturesOK(c.Signatures) })
	}
	col.Signatures = append(col.Signatures, sigs)
	coverage := uint32(0)
	switch len(c.Coverage) {
	case 0:
	case 1:
		coverage = b.text(c.Coverage[0])
	default:
		ok := b.texts && textOK(c.Coverage...) // each by itself: joined they may be longer
		coverage = b.text(strings.Join(c.Coverage, ","))
		b.texts = ok
	}
	col.Coverages = append(col.Coverages, coverage)
}

func (b *Batch) addPeers(c *v1.Call) {
	var source, destination uint32
	if c.Source != nil {
		b.scratch = appendPeer(b.scratch[:0], c.Source, false)
		source = b.put(&b.peers, func() bool { return peerOK(c.Source) })
	}
	if c.Destination != nil {
		b.scratch = appendPeer(b.scratch[:0], c.Destination, true)
		destination = b.put(&b.peers, func() bool { return peerOK(c.Destination) })
	}
	b.col.Sources = append(b.col.Sources, source)
	b.col.SourcePorts = append(b.col.SourcePorts, c.Source.GetPort())
	b.col.Destinations = append(b.col.Destinations, destination)
	b.col.SourceCoverages = append(b.col.SourceCoverages, thousandths(c.Source))
	b.col.DestinationCoverages = append(b.col.DestinationCoverages, thousandths(c.Destination))
}

// addPath splits at "/", so that n slashes make n+1 segments and joining restores every path.
// The empty path is 0 segments.
func (b *Batch) addPath(path string) {
	n := uint32(0)
	b.texts = b.texts && len(path) <= maxStringBytes
	for rest, more := path, path != ""; more; n++ {
		var segment string
		segment, rest, more = strings.Cut(rest, "/")
		b.col.PathSegments = append(b.col.PathSegments, b.text(segment))
	}
	b.col.PathLengths = append(b.col.PathLengths, n)
	b.bytes += int(n) * varintBytes
}

func (b *Batch) addContent(c *v1.Content) (index uint32, bytesPlus1 uint64) {
	if c == nil {
		return 0, 0
	}
	for _, f := range c.Fields {
		b.col.FieldHashes = append(b.col.FieldHashes, b.text(f.Hash))
		b.col.FieldLengths = append(b.col.FieldLengths, f.Length)
		b.col.FieldCounts = append(b.col.FieldCounts, f.Count)
	}
	b.bytes += 3 * varintBytes * len(c.Fields)
	if c.Bytes != nil {
		bytesPlus1 = *c.Bytes + 1
	}
	b.scratch = appendContent(b.scratch[:0], c)
	return b.put(&b.content, func() bool { return contentOK(c) }), bytesPlus1
}

// put numbers the message in scratch; ok tells of its texts, where it is new.
func (b *Batch) put(d *dictionary, ok func() bool) uint32 {
	i, first := d.put(b.scratch)
	if first {
		b.bytes += len(b.scratch) + lengthBytes
		b.texts = b.texts && ok()
	}
	return i
}

// again is text for a column that seldom changes.
func (b *Batch) again(last *numbered, s string) uint32 {
	if s != last.text {
		*last = numbered{s, b.text(s)}
	}
	return last.index
}

// text numbers a string; a keyed hash goes to its own table as raw bytes.
func (b *Batch) text(s string) uint32 {
	if s == "" {
		return 0
	}
	var h [hashBytes]byte
	if len(s) == 2+2*hashBytes && s[0] == 'h' && s[1] == ':' && unhex(h[:], s[2:]) {
		i, ok := b.hashes[h]
		if !ok {
			b.bytes += hashBytes
			i = uint32(len(b.hashes)) | hashFlag
			b.hashes[h] = i
			b.col.Hashes = append(b.col.Hashes, h[:]...)
		}
		return i
	}
	i, ok := b.strings[s]
	if !ok {
		b.bytes += len(s) + lengthBytes
		b.texts = b.texts && textOK(s)
		i = uint32(len(b.col.Strings))
		b.strings[s] = i
		b.col.Strings = append(b.col.Strings, s)
	}
	return i
}
