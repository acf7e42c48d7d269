package deploy

import "fmt"

// limit is a figure and what it may be at most.
type limit struct {
	name      string
	got, most float64
	unit      string
	gate      bool // a failure fails the run; else it is a goal, and is told
	unknown   bool // not measured in this run
}

func (v limit) holds() bool { return v.unknown || v.got <= v.most }

func (v limit) String() string {
	word := "pass"
	if v.unknown {
		return fmt.Sprintf("%-6s %s", "-", v.name)
	}
	if !v.holds() {
		word = "FAIL"
	}
	return fmt.Sprintf("%-6s %-66s %8.2f%s, at most %.2f%s", word, v.name, v.got, v.unit, v.most, v.unit)
}

// limits holds nginx under Spile against what it may cost.
func (b *bench) limits() []limit {
	small, large := benchLoad{"h1", smallPage}, benchLoad{"h1", largePage}
	all := []limit{
		b.limit("gate: CPU per request, h1 200 B, x none", small, "", 1.8, sample.ratio),
		b.limit("gate: CPU per request, h1 16 KB, x none", large, "", 1.6, sample.ratio),
		b.limit("goal: CPU per request, h1 200 B, x none", small, "", 1.6, sample.ratio),
		b.limit("goal: CPU per request, h1 16 KB, x none", large, "", 1.35, sample.ratio),
	}
	for _, l := range []benchLoad{small, large} {
		all = append(all,
			b.limit(fmt.Sprintf("gate: CPU per request, %s, x copy-only reader", l), l, armCopy, 1.25, sample.ratio),
			b.limit(fmt.Sprintf("gate: server and agent, %s, x nginx and nginx hop", l), l, armNginxHop, 1, sample.totalRatio),
			b.limit(fmt.Sprintf("gate: calls not seen, %s", l), l, "", 0.001, func(s sample) float64 { return 1 - s.seen }),
			b.limit(fmt.Sprintf("gate: agent's CPU for 100,000 calls, %s", l), l, "", 6, func(s sample) float64 { return s.also["agent"].Seconds() * 100_000 }),
		)
	}
	for i := range all {
		all[i].gate = all[i].name[:4] == "gate"
	}
	return append(all, limit{name: fmt.Sprintf("gate: agent's resident memory at %d connections", crowdSize), got: mb(b.crowd.resident), most: 40, unit: " MB", gate: true,
		unknown: b.crowd.resident == 0})
}

// limit takes the median over the rounds of a figure of Spile's, relative to the same figure of another arm in the
// same round where one is named.
func (b *bench) limit(name string, l benchLoad, beside string, most float64, of func(sample) float64) limit {
	v := limit{name: name, most: most, unknown: true}
	var got []float64
	for _, s := range b.of("nginx", l.String(), armSpile) {
		if beside == "" {
			got = append(got, of(s))
			continue
		}
		for _, other := range b.of("nginx", l.String(), beside) {
			if other.round == s.round {
				got = append(got, of(s)/of(other))
			}
		}
	}
	if len(got) > 0 {
		v.got, v.unknown = median(got), false
	}
	return v
}
