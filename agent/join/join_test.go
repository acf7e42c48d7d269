package join

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	v1 "github.com/spile/spile/proto/spile/v1"
)

var (
	clientAt = netip.MustParseAddrPort("127.0.0.1:40000")
	serverAt = netip.MustParseAddrPort("127.0.0.1:8080")
)

func sighting(id, path string, client bool, ordinal uint64, start, end time.Duration) Sighting {
	c := &v1.Call{Id: id, Method: "GET", Path: path, StatusCode: 200, Protocol: "http/1.1", Observed: v1.Observed_OBSERVED_SERVER,
		Source: &v1.Peer{Address: "127.0.0.1"}, Destination: &v1.Peer{Address: "127.0.0.1", Process: "nginx"}}
	if client {
		c.Observed = v1.Observed_OBSERVED_CLIENT
		c.Source, c.Destination = &v1.Peer{Address: "127.0.0.1", Process: "curl"}, &v1.Peer{Address: "127.0.0.1"}
	}
	return Sighting{Call: c, Client: client, Source: clientAt, Destination: serverAt, NetNS: 1, Start: start, End: end, StreamOrdinal: ordinal, Numbered: true, PeerWatched: true}
}

func collect(max int) (*Joiner, *[]*v1.Call) {
	var out []*v1.Call
	return New(Config{Max: max, Emit: func(c *v1.Call) { out = append(out, c) }}), &out
}

func TestTwoEndsMakeOneCall(t *testing.T) {
	for _, first := range []bool{true, false} {
		j, out := collect(0)
		j.Add(sighting(fmt.Sprint(first), "/a", first, 0, 1, 10))
		if len(*out) != 0 {
			t.Fatal("a sighting whose other end is watched did not wait")
		}
		j.Add(sighting(fmt.Sprint(!first), "/a", !first, 0, 2, 9))
		if len(*out) != 1 {
			t.Fatalf("%d calls, want 1", len(*out))
		}
		c := (*out)[0]
		if c.Observed != v1.Observed_OBSERVED_BOTH || c.Id != "false" || c.Source.Process != "curl" || c.Destination.Process != "nginx" {
			t.Errorf("joined call = %v", c)
		}
	}
}

func TestStaysApart(t *testing.T) {
	base := sighting("s", "/a", false, 0, 2, 9)
	for name, change := range map[string]func(*Sighting){
		"other namespace": func(s *Sighting) { s.NetNS = 2 },
		"other port":      func(s *Sighting) { s.Source = netip.MustParseAddrPort("127.0.0.1:40001") },
		"other path":      func(s *Sighting) { s.Call.Path = "/b" },
		"other status":    func(s *Sighting) { s.Call.StatusCode = 500 },
		"other ordinal":   func(s *Sighting) { s.StreamOrdinal = 1 },
		"late, no overlap": func(s *Sighting) {
			s.Numbered = false
			s.Start, s.End = 100, 110
		},
		"late, other size": func(s *Sighting) {
			s.Numbered = false
			s.Call.Request = &v1.Content{Bytes: new(uint64)}
			*s.Call.Request.Bytes = 3000
		},
		"same end":      func(s *Sighting) { s.Client = false },
		"other version": func(s *Sighting) { s.Call.Protocol = "http/2" },
	} {
		j, out := collect(0)
		j.Add(base)
		s := sighting("c", "/a", true, 0, 1, 10)
		change(&s)
		j.Add(s)
		j.Flush()
		if len(*out) != 2 {
			t.Errorf("%s: %d calls, want 2", name, len(*out))
		}
	}
}

// TestAnsweredBeforeTheBody is nginx's `return` to a POST over HTTP/2: its end knows the head alone.
func TestAnsweredBeforeTheBody(t *testing.T) {
	j, out := collect(0)
	sent := uint64(3000)
	client, server := sighting("c", "/a", true, 5, 1, 10), sighting("s", "/a", false, 5, 2, 9)
	client.Call.Request = &v1.Content{Bytes: &sent}
	for _, s := range []Sighting{server, client} {
		s.Call.Protocol, s.Numbered = "http/2", false
		j.Add(s)
	}
	if len(*out) != 1 || (*out)[0].Observed != v1.Observed_OBSERVED_BOTH {
		t.Errorf("calls = %v, want one from both ends", *out)
	}
}

func TestAcrossNamespaces(t *testing.T) {
	j, out := collect(0)
	for i, client := range []bool{true, false} {
		s := sighting("x", "/a", client, 0, 1, 2)
		s.Source, s.Destination = netip.MustParseAddrPort("10.0.0.1:4000"), netip.MustParseAddrPort("[::ffff:10.0.0.2]:80")
		if client {
			s.Destination = netip.MustParseAddrPort("10.0.0.2:80")
		}
		s.NetNS = uint32(i)
		j.Add(s)
	}
	if len(*out) != 1 {
		t.Errorf("%d calls, want 1: an address of the host's network means the same in all its namespaces", len(*out))
	}
}

func TestWaitsNoLongerThanItMust(t *testing.T) {
	j, out := collect(0)
	s := sighting("s", "/a", false, 0, 0, time.Second)
	s.PeerWatched = false
	j.Add(s)
	if len(*out) != 1 {
		t.Error("a sighting whose other end nobody watches waited")
	}
	j.Add(sighting("s2", "/a", false, 1, time.Second, 2*time.Second))
	j.Tick(3900 * time.Millisecond)
	if len(*out) != 1 {
		t.Error("emitted before the window ended")
	}
	j.Tick(4 * time.Second)
	if len(*out) != 2 {
		t.Error("not emitted when the window ended")
	}
}

func TestLateJoinUsesTime(t *testing.T) {
	j, out := collect(0)
	for i := range 20 {
		at := time.Duration(i) * 100
		s := sighting(fmt.Sprint("s", i), "/a", false, uint64(i), at+10, at+80)
		c := sighting(fmt.Sprint("c", i), "/a", true, uint64(i+7), at, at+90)
		c.Numbered = false
		c.Call.Request = &v1.Content{}
		j.Add(c)
		j.Add(s)
	}
	if len(*out) != 20 || j.Counts().Joined != 20 {
		t.Errorf("%d calls, %+v", len(*out), j.Counts())
	}
}

func TestBounded(t *testing.T) {
	j, out := collect(10)
	for i := range 100 {
		j.Add(sighting(fmt.Sprint(i), "/a", false, uint64(i), 1, 2))
	}
	if c := j.Counts(); c.Waiting != 10 || c.Overflow != 90 || len(*out) != 90 {
		t.Errorf("counts %+v, %d emitted", c, len(*out))
	}
}

// Random connections, pipelining, sightings that are missing, in any order in which each end can report them.
// TestLateJoinPairsForGood: an end that joined late never counts from the first request, however long its queue was empty.
func TestLateJoinPairsForGood(t *testing.T) {
	j, out := collect(0)
	for i := range 20 {
		at := time.Duration(i) * 10 * time.Second
		s := sighting(fmt.Sprint("s", i), "/poll", false, uint64(i+2), at+10, at+80)
		c := sighting(fmt.Sprint("c", i), "/poll", true, uint64(i), at, at+90)
		c.Numbered = false
		j.Add(c)
		j.Add(s)
		j.Tick(at + 5*time.Second)
	}
	if len(*out) != 20 || j.Counts().Joined != 20 {
		t.Errorf("%d calls, %+v", len(*out), j.Counts())
	}
}

func TestRandomInterleavings(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		j, out := collect(1 << 20)
		var ends [][]Sighting
		truth := map[string]bool{} // both ends were given
		given := 0
		for conn := range 1 + r.IntN(4) {
			var cs, ss []Sighting
			at := time.Duration(0)
			h2, late := r.IntN(3) == 0, r.IntN(4) == 0
			for i := range r.IntN(40) {
				pipelined := r.IntN(2) == 0 && !late
				if !pipelined {
					at += 1000
				}
				path := fmt.Sprint("/", r.IntN(2))
				id := fmt.Sprint(conn, "-", i)
				c, s := sighting("c"+id, path, true, uint64(i), at, at+900), sighting("s"+id, path, false, uint64(i), at+50, at+800)
				for _, x := range []*Sighting{&c, &s} {
					x.Source = netip.AddrPortFrom(clientAt.Addr(), uint16(40000+conn))
					if h2 {
						x.Call.Protocol = "http/2"
					}
				}
				if late {
					c.Numbered = false
					if !h2 {
						c.StreamOrdinal += 1000
					}
				}
				c.Call.Node, s.Call.Node = id, id
				c.Call.Source.Process = id
				missC, missS := r.IntN(10) == 0, r.IntN(10) == 0
				if !missC {
					cs = append(cs, c)
					given++
				}
				if !missS {
					ss = append(ss, s)
					given++
				}
				truth[id] = !missC && !missS
			}
			ends = append(ends, cs, ss)
		}
		for left := given; left > 0; {
			e := r.IntN(len(ends))
			if len(ends[e]) == 0 {
				continue
			}
			j.Add(ends[e][0])
			ends[e] = ends[e][1:]
			left--
		}
		j.Flush()
		seen := map[string]bool{}
		for _, c := range *out {
			if seen[c.Id] {
				t.Fatalf("seed %d: %s emitted twice", seed, c.Id)
			}
			seen[c.Id] = true
			if c.Observed == v1.Observed_OBSERVED_BOTH {
				given--
				if !truth[c.Node] || c.Source.Process != c.Node {
					t.Fatalf("seed %d: %s joined with a call that it is not", seed, c.Id)
				}
			}
		}
		if len(*out) != given {
			t.Fatalf("seed %d: %d calls, want %d", seed, len(*out), given)
		}
		if n := j.Counts(); n.Seen != 2*n.Joined+n.Alone || n.Waiting != 0 {
			t.Fatalf("seed %d: counts do not add up: %+v", seed, n)
		}
	}
}

func BenchmarkAdd(b *testing.B) {
	j := New(Config{Emit: func(*v1.Call) {}})
	b.ReportAllocs()
	c, s := sighting("c", "/a", true, 0, 1, 10), sighting("s", "/a", false, 0, 2, 9)
	for i := range b.N {
		c.StreamOrdinal, s.StreamOrdinal = uint64(i), uint64(i)
		j.Add(c)
		j.Add(s)
	}
}
