package detect_test

import (
	"testing"

	v1 "github.com/spile/spile/proto/spile/v1"
)

// Each line prints what the three built-in rules cost for one call of a kind.
func BenchmarkObserve(b *testing.B) {
	fields := `"fields":[{"path":"body.id","type":"integer"},{"path":"body.name","type":"string"},{"path":"body.email","type":"string","class":"email","count":1},{"path":"body.total","type":"number"}]`
	head := `{"id":"a1","time":"2026-11-21T10:00:00Z","scheme":"https","method":"GET","path":"/users/42","route":"/users/{id}","status_code":200,"service":"s","source":{"address":"10.0.0.7"},"destination":{"address":"10.0.0.9"},`
	for name, text := range map[string]string{
		"plain":              head + `"response":{"fields":[{"path":"body.id","type":"integer"},{"path":"body.name","type":"string"},{"path":"body.total","type":"number"}]}}`,
		"authenticated":      head + `"auth":{"scheme":"bearer","location":"header"},"response":{` + fields + `}}`,
		"finding_personal":   head + `"response":{` + fields + `}}`,
		"finding_plain_http": `{"id":"a1","time":"2026-11-21T10:00:00Z","scheme":"http","method":"GET","path":"/a","route":"/a","status_code":200,"service":"s","auth":{"scheme":"basic","location":"header"}}`,
	} {
		b.Run(name, func(b *testing.B) {
			d := mustDetector(b, 10)
			call := mustCall(b, text)
			var found []*v1.Finding
			b.ReportAllocs()
			for b.Loop() {
				found = d.Observe(call)
			}
			if (len(found) > 0) != (name[:4] == "find") {
				b.Fatalf("%d findings", len(found))
			}
		})
	}
}
