package inventory

import (
	"math/rand/v2"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/spile/spile/proto/spile/v1"
)

// seen is a sighting a number of seconds after start: by the server "s", by the client of a server that nobody watches "c", by
// the client of a watched one "w". A share below 0 is none.
func seen(by byte, at int, source, destination float64) *v1.Call {
	return call("GET", "/x", 200, func(c *v1.Call) {
		c.Time = timestamppb.New(start.Add(time.Duration(at) * time.Second))
		if by != 's' {
			c.Observed, c.Destination.Process = v1.Observed_OBSERVED_CLIENT, ""
		}
		if by == 'w' {
			c.Coverage = []string{"server_watched"}
		}
		if source >= 0 {
			c.Source.Coverage = proto.Float64(source)
		}
		if destination >= 0 {
			c.Destination.Coverage = proto.Float64(destination)
		}
	})
}

func TestCoverageIsTheServingProcessesAtTheNewestCall(t *testing.T) {
	const none = -1
	for name, c := range map[string]struct {
		calls []*v1.Call
		want  float64
	}{
		"nobody says":                    {[]*v1.Call{seen('s', 0, none, none)}, none},
		"nothing is seen":                {[]*v1.Call{seen('s', 0, 1, 0)}, 0},
		"the server's, not the client's": {[]*v1.Call{seen('s', 0, 0.1, 0.9)}, 0.9},
		"the newest":                     {[]*v1.Call{seen('s', 0, none, 0.9), seen('s', 5, none, 0.2)}, 0.2},
		"the newest, come first":         {[]*v1.Call{seen('s', 5, none, 0.9), seen('s', 0, none, 0.2)}, 0.9},
		"of two at one time the later":   {[]*v1.Call{seen('s', 5, none, 0.9), seen('s', 5, none, 0.2)}, 0.2},
		"one that has none leaves it":    {[]*v1.Call{seen('s', 0, none, 0.9), seen('s', 5, none, none)}, 0.9},
		"better old than unknown":        {[]*v1.Call{seen('s', 5, none, none), seen('s', 0, none, 0.9)}, 0.9},
		"the client's where alone":       {[]*v1.Call{seen('c', 0, 0.4, none)}, 0.4},
		"the server's once it is there":  {[]*v1.Call{seen('c', 0, 0.4, none), seen('s', 1, none, 0.7), seen('c', 2, 0.5, none)}, 0.7},
		"no client's of a watched one":   {[]*v1.Call{seen('w', 0, 0.4, none)}, none},
	} {
		t.Run(name, func(t *testing.T) {
			v := New(DefaultLimits())
			for _, k := range c.calls {
				v.Observe(k)
				// Every step survives a restart.
				list, err := v.Flush()
				if err != nil {
					t.Fatal(err)
				}
				next := New(DefaultLimits())
				if err := next.Restore(list); err != nil {
					t.Fatal(err)
				}
				v = next
			}
			e, s := one(t, v), v.Services()[0]
			if (e.Coverage == nil) != (c.want < 0) || e.Coverage != nil && *e.Coverage != c.want {
				t.Errorf("endpoint: %v, want %v", e.Coverage, c.want)
			}
			if (s.Coverage == nil) != (c.want < 0) || s.Coverage != nil && *s.Coverage != c.want {
				t.Errorf("service: %v, want %v", s.Coverage, c.want)
			}
		})
	}
}

// TestStateFromBeforeCoverageIsRead stores rows as they were written before there was a figure.
func TestStateFromBeforeCoverageIsRead(t *testing.T) {
	old := New(DefaultLimits())
	calls := random(rand.New(rand.NewPCG(9, 10)), 500)
	for _, c := range calls {
		c.Source.Coverage, c.Destination.Coverage = nil, nil
	}
	observe(old, calls...)
	list, err := old.Flush()
	if err != nil {
		t.Fatal(err)
	}
	v := New(DefaultLimits())
	if err := v.Restore(list); err != nil {
		t.Fatal(err)
	}
	compare(t, v, old)
	for _, e := range v.Endpoints("", true) {
		if e.Coverage != nil {
			t.Fatalf("%s has coverage %v", e.Id, *e.Coverage)
		}
	}
	v.Observe(call("GET", "/new", 200, func(c *v1.Call) { c.Destination.Coverage = proto.Float64(0.5) }))
	for _, e := range v.Endpoints("shop.example", true) {
		if e.GetCoverage() != 0.5 {
			t.Errorf("%v", e)
		}
	}
}
