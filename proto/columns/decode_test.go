package columns

import (
	"errors"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"

	v1 "github.com/spile/spile/proto/spile/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// open decompresses a payload to edit its columns.
func open(t testing.TB, payload []byte) *v1.Columns {
	t.Helper()
	raw, err := newDecoder(t).zstd.DecodeAll(payload, nil)
	if err != nil {
		t.Fatal(err)
	}
	var c v1.Columns
	if err := proto.Unmarshal(raw, &c); err != nil {
		t.Fatal(err)
	}
	return &c
}

func pack(t testing.TB, c *v1.Columns) []byte {
	t.Helper()
	raw, err := proto.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return newEncoder(t).zstd.EncodeAll(raw, nil)
}

func TestDecodeRefuses(t *testing.T) {
	good, err := newEncoder(t).Encode(nil, realistic(4, 20))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		edit func(*v1.Columns)
		want error
	}{
		"newer version":       {func(c *v1.Columns) { c.Version = 2 }, ErrVersion},
		"count too large":     {func(c *v1.Columns) { c.Count = MaxCalls + 1 }, ErrTooLarge},
		"count too small":     {func(c *v1.Columns) { c.Count-- }, ErrMalformed},
		"no strings":          {func(c *v1.Columns) { c.Strings = nil }, ErrMalformed},
		"first string":        {func(c *v1.Columns) { c.Strings[0] = "x" }, ErrMalformed},
		"half an id":          {func(c *v1.Columns) { c.Ids = c.Ids[1:] }, ErrMalformed},
		"half a hash":         {func(c *v1.Columns) { c.Hashes = c.Hashes[1:] }, ErrMalformed},
		"short column":        {func(c *v1.Columns) { c.Statuses = c.Statuses[1:] }, ErrMalformed},
		"string beyond":       {func(c *v1.Columns) { c.Nodes[3] = 1 << 30 }, ErrMalformed},
		"peer beyond":         {func(c *v1.Columns) { c.Sources[0] = 1 << 31 }, ErrMalformed},
		"content beyond":      {func(c *v1.Columns) { c.Requests[0] = 1 << 31 }, ErrMalformed},
		"path too long":       {func(c *v1.Columns) { c.PathLengths[0] = 1 << 31 }, ErrMalformed},
		"segments left over":  {func(c *v1.Columns) { c.PathSegments = append(c.PathSegments, 0) }, ErrMalformed},
		"fields missing":      {func(c *v1.Columns) { c.FieldCounts = c.FieldCounts[1:] }, ErrMalformed},
		"fields left over":    {func(c *v1.Columns) { c.Contents[0] = nil }, ErrMalformed},
		"credential only":     {func(c *v1.Columns) { c.Auths, c.Auth = nil, make([]uint32, 20) }, ErrMalformed},
		"port without source": {func(c *v1.Columns) { c.Sources[0] = 0 }, ErrMalformed},
		"coverage above 1":    {func(c *v1.Columns) { c.DestinationCoverages[0] += 2 }, ErrMalformed},
		"coverage, no source": {func(c *v1.Columns) {
			c.Sources[0], c.SourceCoverages = 0, make([]uint32, 20)
			c.SourcePorts[0], c.SourceCoverages[0] = 0, 2
		}, ErrMalformed},
		"coverage, no peer":    {func(c *v1.Columns) { c.Destinations[0] = 0 }, ErrMalformed},
		"coverages missing":    {func(c *v1.Columns) { c.DestinationCoverages = c.DestinationCoverages[1:] }, ErrMalformed},
		"coverage in a peer":   {func(c *v1.Columns) { c.Peers[0] = []byte{0x49, 0, 0, 0, 0, 0, 0, 0, 0} }, ErrMalformed},
		"size without content": {func(c *v1.Columns) { c.Requests = make([]uint32, 20) }, ErrMalformed},
		"time overflow":        {func(c *v1.Columns) { c.Times[0] = 1 << 62 }, ErrMalformed},
		"duration overflow":    {func(c *v1.Columns) { c.Durations[0] = ^uint64(0) }, ErrMalformed},
		"no time unit":         {func(c *v1.Columns) { c.TimeUnit = 0 }, ErrMalformed},
		"time unit":            {func(c *v1.Columns) { c.TimeUnit = 7 }, ErrMalformed},
		"negative enum":        {func(c *v1.Columns) { c.Observed[0] = 1 << 31 }, ErrMalformed},
		"dictionary":           {func(c *v1.Columns) { c.Peers[0] = []byte{0xff} }, ErrMalformed},
		"dictionary UTF-8":     {func(c *v1.Columns) { c.Peers[0] = []byte{0x0a, 1, 0xff} }, ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			col := open(t, good)
			c.edit(col)
			if _, err := newDecoder(t).Decode(pack(t, col)); !errors.Is(err, c.want) {
				t.Errorf("error %v, want %v", err, c.want)
			}
		})
	}
	dec := newDecoder(t)
	for n := range good {
		if _, err := dec.Decode(good[:n]); err == nil {
			t.Fatalf("accepted the first %d of %d bytes", n, len(good))
		}
	}
	if _, err := newDecoder(t).Decode([]byte("not zstd")); !errors.Is(err, ErrMalformed) {
		t.Errorf("error %v", err)
	}
}

// A small payload must not make the decoder allocate without bound.
func TestDecodeBoundsMemory(t *testing.T) {
	many := func(tag protowire.Number, n int) []byte {
		return []byte(strings.Repeat(string(protowire.AppendTag(nil, tag, protowire.BytesType))+"\x00", n))
	}
	base := func() *v1.Columns {
		payload, err := newEncoder(t).Encode(nil, []*v1.Call{minimalCall()})
		if err != nil {
			t.Fatal(err)
		}
		return open(t, payload)
	}
	wide := func(n int) *v1.Columns {
		calls := make([]*v1.Call, MaxCalls)
		for i := range calls {
			calls[i] = minimalCall()
			calls[i].Path = strings.Repeat("x", n)
		}
		payload, err := newEncoder(t).Encode(nil, calls)
		if err != nil {
			t.Fatal(err)
		}
		return open(t, payload)
	}
	bomb := newEncoder(t).zstd.EncodeAll(make([]byte, MaxBytes+1), nil)
	for name, payload := range map[string][]byte{
		"zeros":      bomb,
		"fields":     pack(t, func() *v1.Columns { c := base(); c.Contents = [][]byte{many(6, 1<<20)}; return c }()),
		"jwt claims": pack(t, func() *v1.Columns { c := base(); c.Auths = [][]byte{appendMessage(nil, 4, many(7, 1<<20))}; return c }()),
		"strings":    pack(t, func() *v1.Columns { c := base(); c.Strings = make([]string, 1<<20); return c }()),
		"messages":   pack(t, func() *v1.Columns { c := base(); c.SignatureSets = make([][]byte, maxEntries+1); return c }()),
		"paths":      pack(t, wide(60<<10)),
	} {
		t.Run(name, func(t *testing.T) {
			dec := newDecoder(t)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := dec.Decode(payload)
			runtime.ReadMemStats(&after)
			if !errors.Is(err, ErrTooLarge) && !errors.Is(err, ErrMalformed) {
				t.Errorf("error %v, want a refusal", err)
			}
			if used := after.TotalAlloc - before.TotalAlloc; used > 200<<20 {
				t.Errorf("%d bytes of payload allocated %d MiB", len(payload), used>>20)
			}
		})
	}
}

func FuzzDecode(f *testing.F) {
	r := rand.New(rand.NewPCG(5, 6))
	enc := newEncoder(f)
	for _, calls := range [][]*v1.Call{nil, {minimalCall()}, {randomCall(r), randomCall(r)}, realistic(6, 3)} {
		payload, err := enc.Encode(nil, calls)
		if err != nil {
			f.Fatal(err)
		}
		raw, _ := newDecoder(f).zstd.DecodeAll(payload, nil)
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		// Fuzzing what is inside the compression reaches the checks; zstd is fuzzed by its authors.
		calls, err := newDecoder(t).Decode(newEncoder(t).zstd.EncodeAll(raw, nil))
		if err != nil {
			return
		}
		for _, c := range calls {
			if Check(c) != nil {
				return // Decode accepts more than Encode makes, such as an empty coverage flag.
			}
		}
		roundTrip(t, newEncoder(t), newDecoder(t), calls)
	})
}
