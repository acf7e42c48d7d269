package line

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"

	v1 "github.com/spile/spile/proto/spile/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// The examples of the fixed contracts, with every field that a message has, byte for byte.
const (
	goldenCall = `{"id":"c1f0","time":"2026-11-21T10:00:00.123456Z","duration":"0.002100s","node":"n1","observed":"both","protocol":"http/1.1","scheme":"https","method":"GET","authority":"shop.example:8443","path":"/users/42/orders","route":"/users/{id}/orders","status_code":200,` +
		`"service":"shop.example","source":{"address":"10.0.0.7","port":51234,"process":"curl","pid":7,"build_id":"ab","container":"c","pod_uid":"p","workload":"prod/frontend","coverage":0.999},"destination":{"address":"10.0.0.9","port":8443,"process":"nginx","workload":"prod/shop"},` +
		`"principal":"h:9f2c","session":"h:77aa","key_epoch":3,"auth":{"scheme":"bearer","location":"header","credential":"h:51d0","jwt":{"alg":"RS256","iss":"https://idp.example","aud":["shop"],"issued":"2026-11-21T09:00:00Z","expires":"2026-11-21T11:00:00Z","scopes":["read"],"claims":["iss","sub","aud","exp","iat","scope"]},"name":"authorization"},` +
		`"tls":{"version":"1.3","cipher":"TLS_AES_128_GCM_SHA256","group":"X25519MLKEM768","sni":"shop.example","alpn":"http/1.1","ja4":"t13d1516h2_x"},` +
		`"request":{"bytes":0,"content_type":"","header_names":["host","accept"],"fields":[{"path":"query.page","type":"integer","hash":"h:aa","length":1}]},` +
		`"response":{"bytes":512,"content_type":"application/json","shape":"h:0b1d","records":3,"fields":[{"path":"body[].email","type":"string","class":"email","count":3}],"headers":{"server":"nginx","vary":"accept"}},` +
		`"signatures":[{"rule":"sqli-tautology","location":"query.q","score":5}],"coverage":["truncated"]}`
	goldenEndpoint = `{"id":"e:7d1a","service":"shop.example","protocol":"http/1.1","method":"GET","route":"/users/{id}/orders","version":"v2","state":"active","calls":120,"statuses":{"200":118,"404":2},"auth":{"bearer":120},"data_classes":["email"],"callers":["prod/frontend"],"first_seen":"2026-11-21T10:00:00Z","last_seen":"2026-11-21T10:00:00.000001Z","risk":6.5,"owner":"team-shop","confidence":0.97,"coverage":0.999,"schemes":{"https":120},"client_calls":18446744073709551615}`
	goldenFinding  = `{"id":"f:02bb","rule":"personal-data-without-credentials","severity":"high","title":"t","service":"shop.example","method":"GET","route":"/users/{id}","principal":"h:aa","first_seen":"2026-11-21T10:00:00Z","last_seen":"2026-11-21T10:00:00Z","count":40,"state":"open","confidence":0.99,"owasp":"API2:2023","cwe":"CWE-306","attack":"T1190","evidence":[{"call":"c1f0","why":"w"}],"scope":"loopback","revision":2}`
)

func TestGolden(t *testing.T) {
	for name, c := range map[string]struct {
		line string
		m    proto.Message
	}{
		"call":     {goldenCall, &v1.Call{}},
		"endpoint": {goldenEndpoint, &v1.Endpoint{}},
		"finding":  {goldenFinding, &v1.Finding{}},
	} {
		t.Run(name, func(t *testing.T) {
			if err := Unmarshal([]byte(c.line), c.m); err != nil {
				t.Fatal(err)
			}
			if got := string(Append(nil, c.m)); got != c.line {
				t.Errorf("printed\n%s\nwant\n%s", got, c.line)
			}
			fields := c.m.ProtoReflect().Descriptor().Fields()
			for i := range fields.Len() {
				if !c.m.ProtoReflect().Has(fields.Get(i)) {
					t.Errorf("the example lacks %s", fields.Get(i).Name())
				}
			}
		})
	}
}

// Every message of spile.v1, filled at random, survives and stays in field order on one line.
func TestEveryMessageRoundTrips(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	messages := 0
	for _, file := range []protoreflect.FileDescriptor{v1.File_spile_v1_call_proto, v1.File_spile_v1_ingest_proto, v1.File_spile_v1_query_proto} {
		for i := range file.Messages().Len() {
			messages++
			for range 50 {
				m := newMessage(t, file.Messages().Get(i))
				fill(r, m.ProtoReflect(), 0)
				line := Append(nil, m)
				if !json.Valid(line) || !utf8.Valid(line) || bytes.ContainsAny(line, "\n\r\x00\x1b\u0085\u2028") {
					t.Fatalf("not one line of JSON: %q", line)
				}
				back := m.ProtoReflect().New().Interface()
				if err := Unmarshal(line, back); err != nil {
					t.Fatalf("%v in %s", err, line)
				}
				if !proto.Equal(m, back) {
					t.Fatalf("%s came back as\n%s", line, Append(nil, back))
				}
			}
		}
	}
	if messages < 30 {
		t.Fatalf("only %d messages found", messages)
	}
}

func TestDetails(t *testing.T) {
	zero := uint64(0)
	for _, c := range []struct {
		m    proto.Message
		want string
	}{
		{&v1.Call{}, `{}`},
		{&v1.Call{Source: &v1.Peer{}}, `{"source":{}}`},
		{&v1.Content{Bytes: &zero}, `{"bytes":0}`},
		{&v1.Peer{Coverage: proto.Float64(0)}, `{"coverage":0}`},
		{&v1.Peer{Coverage: proto.Float64(1)}, `{"coverage":1}`},
		{&v1.Peer{Coverage: proto.Float64(0.001)}, `{"coverage":0.001}`},
		{&v1.Endpoint{Coverage: proto.Float64(0)}, `{"coverage":0}`},
		{&v1.Peer{Coverage: proto.Float64(math.NaN())}, `{"coverage":null}`},
		{&v1.Call{Path: "/<&>\u2028\x00\x1b[31m\x7f\xff\"\\"}, `{"path":"/<&>\u2028\u0000\u001b[31m\u007f\ufffd\"\\"}`},
		{&v1.Call{Path: "a\n\r\té\u0085"}, `{"path":"a\n\r\té\u0085"}`},
		{&v1.Call{Observed: 77}, `{"observed":77}`},
		{&v1.Call{Observed: v1.Observed_OBSERVED_CLIENT}, `{"observed":"client"}`},
		{&v1.Call{Time: &timestamppb.Timestamp{Nanos: 999}}, `{"time":"1970-01-01T00:00:00Z"}`},
		{&v1.Call{Time: &timestamppb.Timestamp{Seconds: -1, Nanos: 999999999}}, `{"time":"1969-12-31T23:59:59.999999Z"}`},
		{&v1.Call{Time: &timestamppb.Timestamp{Seconds: 1 << 60}}, `{"time":null}`},
		{&v1.Call{Duration: durationpb.New(0)}, `{"duration":"0.000000s"}`},
		{&v1.Call{Duration: durationpb.New(-1500000)}, `{"duration":"-0.001500s"}`},
		{&v1.Call{Duration: durationpb.New(3600e9)}, `{"duration":"3600.000000s"}`},
		{&v1.Endpoint{Risk: 1e21, Statuses: map[string]uint64{"b": 1, "a": 2}}, `{"statuses":{"a":2,"b":1},"risk":1e+21}`},
		{&v1.Welcome{Key: []byte{0xff, 0xfe, 0}}, `{"key":"//4A"}`},
	} {
		if got := string(Append([]byte("x"), c.m)); got != "x"+c.want {
			t.Errorf("printed %s, want %s", got[1:], c.want)
		}
	}
}

func TestReadsWhatPeopleWrite(t *testing.T) {
	line := ` { "unknown" : [1, {"a":[true,null]}, "\ud83d\ude00"], "path":"\u002fa\/b\ud83d\ude00\ud800", "status_code": 200, "node":"x", "node":null,
		"time":"2026-11-21T11:00:00.1234567+01:00", "duration":"0.0021s", "observed":"BOTH", "coverage":[], "tls":{} } `
	var c v1.Call
	if err := Unmarshal([]byte(line), &c); err != nil {
		t.Fatal(err)
	}
	want := &v1.Call{Path: "/a/b\U0001f600\ufffd", StatusCode: 200, Time: &timestamppb.Timestamp{Seconds: 1795255200, Nanos: 123456700},
		Duration: durationpb.New(2100000), Observed: v1.Observed_OBSERVED_BOTH, Tls: &v1.Tls{}}
	if !proto.Equal(&c, want) {
		t.Errorf("read %s, want %s", Append(nil, &c), Append(nil, want))
	}
}

func TestRefuses(t *testing.T) {
	for _, c := range []struct {
		line string
		want error
		text string
	}{
		{``, ErrSyntax, "byte 1"},
		{`[]`, ErrSyntax, "'{'"},
		{`{} {}`, ErrSyntax, "after the end"},
		{"{}\x00", ErrSyntax, "after the end"},
		{`{"path":"a`, ErrSyntax, "without end"},
		{"{\"path\":\"a\nb\"}", ErrSyntax, "control"},
		{`{"path":"\x"}`, ErrSyntax, "escape"},
		{`{"path":"a",}`, ErrSyntax, "string"},
		{`{"x":01}`, ErrSyntax, "value"},
		{`{"x":nope}`, ErrSyntax, "value"},
		{`{"status_code":-1}`, ErrValue, "field status_code"},
		{`{"status_code":1.5}`, ErrValue, "integer"},
		{`{"status_code":"200"}`, ErrValue, "number"},
		{`{"status_code":4294967296}`, ErrValue, "4294967295"},
		{`{"path":5}`, ErrValue, "want a string"},
		{`{"observed":"sideways"}`, ErrValue, "sideways"},
		{`{"source":{"coverage":1e999}}`, ErrValue, "field source.coverage"},
		{`{"source":{"coverage":NaN}}`, ErrSyntax, "value"},
		{`{"source":{"coverage":"1"}}`, ErrValue, "number"},
		{`{"time":"yesterday"}`, ErrValue, "yesterday"},
		{`{"time":5}`, ErrValue, "field time"},
		{`{"duration":"--1s"}`, ErrValue, "duration"},
		{`{"duration":"1e3s"}`, ErrValue, "duration"},
		{`{"duration":"5"}`, ErrValue, "duration"},
		{`{"request":{"fields":[{"count":"x"}]}}`, ErrValue, "field request.fields.count"},
		{strings.Repeat(`{"x":`, 40) + `1` + strings.Repeat(`}`, 40), ErrDepth, "deep"},
		{strings.Repeat(` `, MaxBytes+1), ErrTooLong, "4 MiB"},
	} {
		err := Unmarshal([]byte(c.line), &v1.Call{})
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%.60q: error %v, want %v with %q", c.line, err, c.want, c.text)
		}
	}
}

func FuzzUnmarshal(f *testing.F) {
	f.Add([]byte(goldenCall))
	f.Add([]byte(`{"time":"1969-12-31T23:59:59.5Z","duration":"-1.5s","observed":9,"request":{"headers":{"\ud800":"\u0000"}}}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		var c v1.Call
		if Unmarshal(line, &c) != nil {
			return
		}
		if !json.Valid(bytes.ToValidUTF8(line, []byte("\ufffd"))) {
			t.Fatalf("accepted what is not JSON: %q", line)
		}
		once := Append(nil, &c)
		var back v1.Call
		if err := Unmarshal(once, &back); err != nil {
			t.Fatalf("own line %s: %v", once, err)
		}
		if twice := Append(nil, &back); !bytes.Equal(once, twice) {
			t.Fatalf("%s\nthen\n%s", once, twice)
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	var c v1.Call
	if err := Unmarshal([]byte(goldenCall), &c); err != nil {
		b.Fatal(err)
	}
	buf := Append(nil, &c)
	b.ReportAllocs()
	b.SetBytes(int64(len(buf)))
	for b.Loop() {
		buf = Append(buf[:0], &c)
	}
}

func BenchmarkUnmarshal(b *testing.B) {
	b.ReportAllocs()
	b.SetBytes(int64(len(goldenCall)))
	for b.Loop() {
		if err := Unmarshal([]byte(goldenCall), &v1.Call{}); err != nil {
			b.Fatal(err)
		}
	}
}
