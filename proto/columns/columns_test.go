package columns

import (
	"bytes"
	"errors"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	v1 "github.com/spile/spile/proto/spile/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func newEncoder(t testing.TB) *Encoder {
	t.Helper()
	e, err := NewEncoder()
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func newDecoder(t testing.TB) *Decoder {
	t.Helper()
	d, err := NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func roundTrip(t *testing.T, enc *Encoder, dec *Decoder, calls []*v1.Call) {
	t.Helper()
	payload, err := enc.Encode(nil, calls)
	if err != nil {
		t.Fatal(err)
	}
	back, err := dec.Decode(payload)
	if err != nil {
		t.Fatal(err)
	}
	if len(back) != len(calls) {
		t.Fatalf("%d calls came back as %d", len(calls), len(back))
	}
	for i := range calls {
		if !proto.Equal(calls[i], back[i]) {
			t.Fatalf("call %d came back as\n%v\nwas\n%v", i, back[i], calls[i])
		}
	}
}

func TestRandomCallsRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	enc, dec := newEncoder(t), newDecoder(t)
	for range 300 {
		calls := make([]*v1.Call, r.IntN(40))
		for i := range calls {
			calls[i] = randomCall(r)
		}
		roundTrip(t, enc, dec, calls)
	}
	roundTrip(t, enc, dec, realistic(5, 1000))
}

// Every field that is reachable from Call survives alone: a field added to the vocabulary and
// forgotten here fails this test.
func TestEveryFieldIsCarried(t *testing.T) {
	enc, dec := newEncoder(t), newDecoder(t)
	fields := 0
	var walk func(d protoreflect.MessageDescriptor, place func(*v1.Call) protoreflect.Message)
	walk = func(d protoreflect.MessageDescriptor, place func(*v1.Call) protoreflect.Message) {
		for i := range d.Fields().Len() {
			fd := d.Fields().Get(i)
			fields++
			t.Run(string(fd.FullName()), func(t *testing.T) {
				c := minimalCall()
				m := place(c)
				setOne(m, fd)
				if !m.Has(fd) {
					t.Fatal("the test did not set it")
				}
				roundTrip(t, enc, dec, []*v1.Call{c})
			})
			if fd.Message() == nil || fd.IsMap() || fd.Message().ParentFile().Package() != "spile.v1" {
				continue
			}
			walk(fd.Message(), func(c *v1.Call) protoreflect.Message {
				m := place(c)
				if fd.IsList() {
					return m.Mutable(fd).List().AppendMutable().Message()
				}
				return m.Mutable(fd).Message()
			})
		}
	}
	walk((*v1.Call)(nil).ProtoReflect().Descriptor(), func(c *v1.Call) protoreflect.Message { return c.ProtoReflect() })
	if fields < 80 {
		t.Fatalf("walked only %d fields", fields)
	}
}

func TestEdges(t *testing.T) {
	enc, dec := newEncoder(t), newDecoder(t)
	zero, word := uint64(0), ""
	for _, edit := range []func(*v1.Call){
		func(c *v1.Call) { c.Path = "/" },
		func(c *v1.Call) { c.Path = "//a//" },
		func(c *v1.Call) { c.Path = "*" },
		func(c *v1.Call) { c.Source, c.Destination = &v1.Peer{}, &v1.Peer{} },
		func(c *v1.Call) { c.Source = &v1.Peer{Port: 1 << 31} },
		func(c *v1.Call) { c.Source = &v1.Peer{Coverage: proto.Float64(0)} },
		func(c *v1.Call) { c.Destination = &v1.Peer{Coverage: proto.Float64(0)} },
		func(c *v1.Call) { c.Auth, c.Tls = &v1.Auth{Jwt: &v1.Jwt{}}, &v1.Tls{} },
		func(c *v1.Call) {
			c.Auth = &v1.Auth{Jwt: &v1.Jwt{Aud: []string{""}, Issued: &timestamppb.Timestamp{Seconds: -5}}}
		},
		func(c *v1.Call) { c.Request = &v1.Content{Bytes: &zero, ContentType: &word} },
		func(c *v1.Call) { c.Request = &v1.Content{Fields: []*v1.Field{{}, {Hash: "h:zz"}}} },
		func(c *v1.Call) { c.Signatures = []*v1.Signature{{}} },
		func(c *v1.Call) { c.Time = &timestamppb.Timestamp{Seconds: -1, Nanos: 1} },
		func(c *v1.Call) { c.Duration = &durationpb.Duration{} },
		func(c *v1.Call) { c.Duration = &durationpb.Duration{Nanos: 1} },
		func(c *v1.Call) { c.Principal, c.Node = "h:"+strings.Repeat("ab", 12), "h:"+strings.Repeat("AB", 12) },
	} {
		c := minimalCall()
		edit(c)
		roundTrip(t, enc, dec, []*v1.Call{c, minimalCall(), c})
	}
	roundTrip(t, enc, dec, nil)
}

func TestEncodeIsDeterministic(t *testing.T) {
	calls := realistic(9, 500)
	first, err := newEncoder(t).Encode(nil, calls)
	if err != nil {
		t.Fatal(err)
	}
	enc := newEncoder(t)
	for range 3 {
		again, err := enc.Encode(nil, calls)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(first, again) {
			t.Fatal("the same calls gave another payload")
		}
	}
}

func TestCheckRefuses(t *testing.T) {
	full := ^uint64(0)
	share := func(v float64) func(*v1.Call) {
		return func(c *v1.Call) { c.Destination = &v1.Peer{Coverage: &v} }
	}
	for want, edit := range map[error][]func(*v1.Call){
		errID: {func(c *v1.Call) { c.Id = "" }, func(c *v1.Call) { c.Id = strings.Repeat("G", 32) }, func(c *v1.Call) { c.Id += "00" }},
		errTime: {func(c *v1.Call) { c.Time = nil }, func(c *v1.Call) { c.Time = &timestamppb.Timestamp{Nanos: 1e9} },
			func(c *v1.Call) { c.Time = &timestamppb.Timestamp{Seconds: 1 << 40} }},
		errDuration: {func(c *v1.Call) { c.Duration = durationpb.New(-1) }, func(c *v1.Call) { c.Duration = &durationpb.Duration{Seconds: 1 << 60} }},
		errUTF8: {func(c *v1.Call) { c.Path = "/\xff" }, func(c *v1.Call) { c.Node = strings.Repeat("x", maxStringBytes+1) },
			func(c *v1.Call) { c.Source = &v1.Peer{Process: "\xff"} }, func(c *v1.Call) { c.Auth = &v1.Auth{Jwt: &v1.Jwt{Claims: []string{"\xff"}}} },
			func(c *v1.Call) { c.Response = &v1.Content{Headers: map[string]string{"a": "\xff"}} },
			func(c *v1.Call) { c.Request = &v1.Content{Fields: []*v1.Field{{Class: "\xff"}}} }},
		errCoverage: {func(c *v1.Call) { c.Coverage = []string{"a,b"} }, func(c *v1.Call) { c.Coverage = []string{""} }},
		errShare: {share(math.NaN()), share(math.Inf(1)), share(-0.001), share(math.Copysign(0, -1)), share(1.001), share(0.9995),
			share(math.Nextafter(0.5, 1)), func(c *v1.Call) { c.Source = &v1.Peer{Coverage: proto.Float64(2)} }},
		errBytes: {func(c *v1.Call) { c.Request = &v1.Content{Bytes: &full} }},
		errEnum:  {func(c *v1.Call) { c.Observed = -1 }},
		errNil:   {func(c *v1.Call) { c.Signatures = []*v1.Signature{nil} }},
	} {
		for _, f := range edit {
			c := minimalCall()
			f(c)
			if err := Check(c); !errors.Is(err, want) {
				t.Errorf("%v: error %v, want %v", c, err, want)
			}
			_, err := newEncoder(t).Encode(nil, []*v1.Call{minimalCall(), c})
			var bad *CallError
			if !errors.As(err, &bad) || bad.Index != 1 {
				t.Errorf("%v: encode says %v, want a CallError at 1", c, err)
			}
		}
	}
	if err := Check(nil); !errors.Is(err, errNil) {
		t.Errorf("nil call: %v", err)
	}
	if _, err := newEncoder(t).Encode(nil, make([]*v1.Call, MaxCalls+1)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too many calls: %v", err)
	}
}
