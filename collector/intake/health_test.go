package intake

import (
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
	"unicode/utf8"

	v1 "github.com/spile/spile/proto/spile/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// report hands a copy of a report to intake and returns what it keeps.
func report(t testing.TB, h *v1.Health) (kept *v1.Health, c Counts) {
	t.Helper()
	s := newServer(t, &shelf{})
	a, err := s.connect("node")
	if err != nil {
		t.Fatal(err)
	}
	s.health(a, proto.CloneOf(h))
	return s.Agents()[0].Health, s.Counts()
}

// fullReport is what the agent of a busy node says: as many rows as there may be, with reasons of usual length.
func fullReport(rows int) *v1.Health {
	h := &v1.Health{Version: "1", Kernel: "6.18", Epoch: 3, Rungs: map[string]string{"socket": "tp_btf"}, Targets: []string{"netns=self"},
		Counts: []*v1.Count{{Stage: "coverage", Name: "tls_bytes", Value: 7}},
		Probes: []*v1.Probe{{Library: "OpenSSL", Path: "/lib/libssl.so.3", State: "attached"}}}
	for i := range rows {
		c := &v1.Coverage{Pid: uint32(i + 1), Process: "worker", TlsBytes: math.MaxUint64 - uint64(i), DecodedBytes: uint64(i)}
		if i%2 == 0 {
			c.Reason = "TLS by rustls is not decoded yet"
		}
		h.Coverage = append(h.Coverage, c)
	}
	return h
}

func TestAHealthReportIsKeptAsItIs(t *testing.T) {
	want := fullReport(maxHealthRows)
	got, c := report(t, want)
	if !proto.Equal(got, want) || c.HealthRowsDropped != 0 || c.HealthAltered != 0 {
		t.Errorf("%d rows of %d, %+v", len(got.GetCoverage()), len(want.GetCoverage()), c)
	}
}

// A run that has not reported yet is not shown with the hooks of the one before; one that only comes back still has its own.
func TestAHealthReportEndsWithItsRun(t *testing.T) {
	s := newServer(t, &shelf{})
	client, _, _ := serve(t, s)
	for _, c := range []struct {
		epoch uint64
		kept  bool
	}{{9, false}, {9, true}, {10, false}} {
		stream, err := client.Publish(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		stream.Send(&v1.PublishRequest{Of: &v1.PublishRequest_Hello{Hello: &v1.Hello{Epoch: c.epoch}}})
		if m, err := stream.Recv(); err != nil || m.GetWelcome() == nil {
			t.Fatalf("%v, %v", m, err)
		}
		if a := s.Agents()[0]; !a.Connected || a.Health != nil != c.kept {
			t.Errorf("epoch %d is connected (%t) with the report %v", c.epoch, a.Connected, a.Health)
		}
		stream.Send(&v1.PublishRequest{Of: &v1.PublishRequest_Health{Health: &v1.Health{Epoch: c.epoch, Rungs: map[string]string{"socket": "tp_btf"}}}})
		stream.CloseSend()
		if m, err := stream.Recv(); err != io.EOF {
			t.Fatalf("%v, %v", m, err)
		}
		if got := s.Agents()[0].Health; got.GetEpoch() != c.epoch {
			t.Errorf("epoch %d: the report is %v", c.epoch, got)
		}
	}
}

func TestAHealthReportIsBounded(t *testing.T) {
	long := strings.Repeat("é", maxHealthBytes)
	rows := fullReport(3 * maxHealthRows)
	wide := fullReport(maxHealthRows)
	for _, c := range wide.Coverage {
		c.Reason = long
	}
	many := &v1.Health{Rungs: map[string]string{"long": long, long: "x"}}
	for i := range 10 * maxHealthRows {
		many.Counts = append(many.Counts, &v1.Count{Stage: long[:300], Name: fmt.Sprint(i)})
		many.Probes = append(many.Probes, &v1.Probe{Path: long[:4000], Reason: "x", Unleased: long})
		many.Targets = append(many.Targets, long[:4000])
		many.Gates = append(many.Gates, &v1.Gate{Name: long[:4000], State: long[:4000], Detail: long})
		many.CgroupLosses = append(many.CgroupLosses, &v1.CgroupLoss{Cgroup: long[:4000], Reason: long[:4000]})
		many.Rungs[fmt.Sprintf("%06d", i)] = "y"
	}
	for name, c := range map[string]struct {
		report  *v1.Health
		rows    int
		altered uint64
	}{
		"rows":  {rows, maxHealthRows, 0},
		"texts": {wide, 247, 1},
		"lists": {many, 0, 1},
	} {
		got, counts := report(t, c.report)
		if size := proto.Size(got); size > maxHealthBytes || len(got.Coverage) != c.rows || len(got.Rungs) > maxRungs {
			t.Errorf("%s: %d bytes with %d rows, want %d", name, size, len(got.Coverage), c.rows)
		}
		lists := func(h *v1.Health) int {
			return len(h.Coverage) + len(h.Probes) + len(h.Counts) + len(h.Targets) + len(h.Rungs) + len(h.Gates) + len(h.CgroupLosses)
		}
		if dropped := lists(c.report) - lists(got); counts.HealthRowsDropped != uint64(dropped) || counts.HealthAltered != c.altered {
			t.Errorf("%s: %d entries are missing, the counts are %+v", name, dropped, counts)
		}
		for i, row := range got.Coverage {
			if row.Pid != uint32(i+1) || !utf8.ValidString(row.Reason) || len(row.Reason) > maxLineBytes {
				t.Fatalf("%s: row %d is %.100v", name, i, row)
			}
		}
	}
}

func TestAnImpossibleFigureIsCorrected(t *testing.T) {
	got, c := report(t, &v1.Health{Coverage: []*v1.Coverage{{TlsBytes: 5, DecodedBytes: math.MaxUint64}, {TlsBytes: 5, DecodedBytes: 5}}})
	if got.Coverage[0].DecodedBytes != 5 || c.HealthAltered != 1 {
		t.Errorf("%v, %+v", got, c)
	}
	if got, _ := report(t, &v1.Health{Time: &timestamppb.Timestamp{Seconds: math.MinInt64, Nanos: -1}}); got == nil {
		t.Error("a time that is none")
	}
	strange := protowire.AppendBytes(protowire.AppendTag(nil, 999, protowire.BytesType), make([]byte, 2*maxHealthBytes))
	h := fullReport(3)
	for _, m := range []proto.Message{h, h.Coverage[0], h.Probes[0], h.Counts[0]} {
		m.ProtoReflect().SetUnknown(strange)
	}
	if got, _ := report(t, h); !proto.Equal(got, fullReport(3)) {
		t.Errorf("fields of a newer agent: %.200v", got)
	}
}

// FuzzHealth takes any bytes that are a report.
func FuzzHealth(f *testing.F) {
	for _, h := range []*v1.Health{{}, fullReport(3), {Rungs: map[string]string{"": ""}, Coverage: []*v1.Coverage{{DecodedBytes: 1, Reason: strings.Repeat("é", 2000)}}}} {
		b, err := proto.Marshal(h)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, uint16(1))
		f.Add(append(b, 0xfa, 0x01, 0x03, 'a', 'b', 'c'), uint16(2000))
	}
	if b, err := proto.Marshal(costlyReport()); err != nil {
		f.Fatal(err)
	} else {
		f.Add(b, uint16(1))
	}
	f.Fuzz(func(t *testing.T, b []byte, times uint16) {
		var h v1.Health
		if proto.Unmarshal(b, &h) != nil {
			return
		}
		// The wire may repeat each list.
		for range min(times, 2000) {
			h.Coverage, h.Probes = append(h.Coverage, h.Coverage[:min(1, len(h.Coverage))]...), append(h.Probes, h.Probes[:min(1, len(h.Probes))]...)
		}
		got, _ := report(t, &h)
		if size := proto.Size(got); size > maxHealthBytes {
			t.Errorf("%d bytes are kept", size)
		}
		if _, err := proto.Marshal(got); err != nil {
			t.Error(err)
		}
		again, c := report(t, got)
		if !proto.Equal(again, got) || c.HealthRowsDropped+c.HealthAltered != 0 {
			t.Errorf("what was kept is not kept again: %+v", c)
		}
		for _, row := range got.GetCoverage() {
			if row.DecodedBytes > row.TlsBytes || len(row.Reason) > maxLineBytes || len(row.Process) > maxWordBytes {
				t.Errorf("%v", row)
			}
		}
	})
}
