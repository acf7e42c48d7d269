package owner

import (
	"testing"

	"github.com/spile/spile/collector/detect"
	"github.com/spile/spile/collector/inventory"
	"github.com/spile/spile/collector/journal"
	"github.com/spile/spile/collector/route"
)

// BenchmarkTake is everything between journal and commit, on one core: one operation is one call. A record has 500.
func BenchmarkTake(b *testing.B) {
	for name, detector := range map[string]func() (Detector, error){"plain": nil, "rules": func() (Detector, error) {
		rules, err := detect.Builtin()
		if err != nil {
			return nil, err
		}
		return detect.New(rules, 10_000)
	}} {
		b.Run(name, func(b *testing.B) {
			c := newCoder(b)
			var records []journal.Record
			for n := range uint64(20) {
				records = append(records, c.record(b, "n1", n, callsOf("a", n, 500)))
			}
			o, err := New(Config{Journal: new(journal.Journal), Decode: c.decode, Route: route.Template, Detector: detector, Limits: inventory.DefaultLimits()})
			if err != nil {
				b.Fatal(err)
			}
			p := o.partitions[0]
			p.meta.marks = newWatermarks()
			if detector != nil {
				if p.detector, err = detector(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportAllocs()
			b.ResetTimer()
			seq := uint64(0)
			for n := 0; n < b.N; n += 500 {
				seq++
				r := records[seq%20]
				r.Seq = seq
				if err := p.take(b.Context(), item{seq, r}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
