package bpf

import (
	"fmt"
	"strings"
	"testing"
)

// Without bodies the head of a message comes and its body does not; without responses they are told of.
func TestShed(t *testing.T) {
	tp := start(t, Options{})
	_, port := serve(t, true, echo)
	ask := func() *talk {
		seen := len(tp.settle())
		tp.run("python3", "-c", wholeRequests, fmt.Sprint(port))
		return only(t, tp.settle()[seen:], "python3", layerTLS)
	}
	all := ask()
	full := len(all.side[egress].data)
	if full < 3*briefMessage {
		t.Fatalf("%d bytes sent: the requests are too small for this test", full)
	}
	if err := tp.SetShed(Shed{Bodies: true}, nil); err != nil {
		t.Fatal(err)
	}
	s := ask()
	if n := len(s.side[egress].data); n > 3*briefMessage || strings.Count(string(s.side[egress].data), "POST /big/") != 3 || s.side[egress].next != all.side[egress].next {
		t.Errorf("without bodies: %d bytes, offset %d, want at most %d and %d", n, s.side[egress].next, 3*briefMessage, all.side[egress].next)
	}
	if err := tp.SetShed(Shed{Responses: true}, nil); err != nil {
		t.Fatal(err)
	}
	s = ask()
	if len(s.side[ingress].data) != 0 || s.side[ingress].heads != 3 || s.side[ingress].next != all.side[ingress].next {
		t.Errorf("without responses: %d bytes of them, %d heads, offset %d, want 0, 3, %d", len(s.side[ingress].data), s.side[ingress].heads, s.side[ingress].next, all.side[ingress].next)
	}
	if n := len(s.side[egress].data); n != full {
		t.Errorf("without responses: %d bytes of requests, want %d", n, full)
	}
	if got := tp.count("shed_heads"); got != 3 {
		t.Errorf("%d responses counted as shed, want 3", got)
	}
	// Another cgroup's policy is not ours; taken back, all is read again.
	if err := tp.SetShed(Shed{}, map[uint64]Shed{1 << 60: {OneIn: 1 << 20}}); err != nil {
		t.Fatal(err)
	}
	if s = ask(); len(s.side[ingress].data) != len(all.side[ingress].data) || len(s.side[egress].data) != full {
		t.Errorf("with all again: %d and %d bytes, want %d and %d", len(s.side[ingress].data), len(s.side[egress].data), len(all.side[ingress].data), full)
	}
}

// Of one connection in many nothing is read, but its messages are counted, by cgroup too.
func TestSampled(t *testing.T) {
	tp := start(t, Options{})
	_, port := serve(t, true, echo)
	if err := tp.SetShed(Shed{OneIn: 1 << 30}, nil); err != nil { // an id is one in a billion
		t.Fatal(err)
	}
	tp.run("python3", "-c", wholeRequests, fmt.Sprint(port))
	for _, r := range tp.settle() {
		if r.Event.Kind == EventData {
			t.Errorf("read %d bytes of a connection that is not sampled", len(r.Data))
		}
	}
	if streams, heads := tp.count("sampled_streams"), tp.count("sampled_heads"); streams != 1 || heads != 6 {
		t.Errorf("%d streams and %d heads counted, want 1 and 6", streams, heads)
	}
	losses, err := tp.CgroupLosses()
	if err != nil {
		t.Fatal(err)
	}
	if len(losses) != 1 || losses[0].Reason != "sampled" || losses[0].Heads != 6 || losses[0].Cgroup == 0 {
		t.Errorf("by cgroup: %+v, want 6 heads sampled", losses)
	}
	if lost := tp.lost(); len(lost) > 0 {
		t.Errorf("lost %v", lost)
	}
}
