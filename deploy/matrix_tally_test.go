package deploy

import (
	"slices"
	"testing"
)

// TestTally shows the judge of the matrix a fault of each kind: it must see every one, and none where there is none.
func TestTally(t *testing.T) {
	row := matrixRow{server: matrixServer{participant: participant{process: "nginx"}}, client: matrixClient{participant: participant{process: "curl"}}, mode: "h1"}
	const server = 443
	want := expect(row, []asked{{1001, 0}, {1002, 0}})
	call := func(change func(*matrixCall)) matrixCall {
		c := matrixCall{Observed: "both", Protocol: "http/1.1", Scheme: "https", Method: "GET", Path: "/row1/1001/0", StatusCode: 200,
			Source: peerLine{Process: "curl", Port: 1001}, Destination: peerLine{Process: "nginx", Port: server}}
		c.Response.Bytes, c.Response.ContentType = answers.sizes[0], "application/json"
		if change != nil {
			change(&c)
		}
		return c
	}
	right := call(nil)
	second := call(func(c *matrixCall) { c.Path, c.Source.Port = "/row1/1002/0", 1002 })
	from := func(end string, change func(*matrixCall)) matrixCall {
		return call(func(c *matrixCall) {
			c.Observed = end
			change(c)
		})
	}
	as := func(change func(*matrixCall)) []matrixCall { return []matrixCall{call(change), second} }
	for i, test := range []struct {
		name string
		got  []matrixCall
		want verdict
	}{
		{"all is right", []matrixCall{right, second}, verdict{calls: 2, both: 2}},
		{"the client's port is wrong", as(func(c *matrixCall) { c.Source.Port = 1002 }), verdict{calls: 2, both: 2, wrongPeer: 1}},
		{"the server's port is wrong", as(func(c *matrixCall) { c.Destination.Port = 9443 }), verdict{calls: 2, both: 2, wrongPeer: 1}},
		{"the server's end alone has a wrong peer, and comes second", []matrixCall{from("client", func(c *matrixCall) {}), second,
			from("server", func(c *matrixCall) { c.Source.Port = 1002 })}, verdict{calls: 3, both: 1, twice: 1, wrongPeer: 1}},
		{"it comes first", []matrixCall{from("server", func(c *matrixCall) { c.Source.Port = 1002 }), second,
			from("client", func(c *matrixCall) {})}, verdict{calls: 3, both: 1, twice: 1, wrongPeer: 1}},
		{"it comes third", []matrixCall{right, right, second, from("server", func(c *matrixCall) { c.Source.Port = 1002 })},
			verdict{calls: 4, both: 2, twice: 2, wrongPeer: 1}},
		{"two calls", []matrixCall{right, second, right}, verdict{calls: 3, both: 2, twice: 1}},
		{"an end is unknown", as(func(c *matrixCall) { c.Source.Port = 0 }), verdict{calls: 2, both: 2, unknownPeer: 1}},
		{"the other end is unknown", as(func(c *matrixCall) { c.Destination.Port = 0 }), verdict{calls: 2, both: 2, unknownPeer: 1}},
		{"an unknown end comes second", []matrixCall{right, second, from("server", func(c *matrixCall) { c.Source.Port = 0 })},
			verdict{calls: 3, both: 2, twice: 1, unknownPeer: 1}},
		{"one is missing", []matrixCall{right}, verdict{calls: 1, both: 1, missing: 1}},
		{"nobody asked", []matrixCall{right, second, call(func(c *matrixCall) { c.Path = "/row1/1003/0" })}, verdict{calls: 3, both: 2, other: 1}},
		{"one end", as(func(c *matrixCall) { c.Observed = "client" }), verdict{calls: 2, both: 1}},
		{"another program", as(func(c *matrixCall) { c.Destination.Process = "curl" }), verdict{calls: 2, both: 2, other: 1}},
		{"another status", as(func(c *matrixCall) { c.StatusCode = 404 }), verdict{calls: 2, both: 2, other: 1}},
		{"another size", as(func(c *matrixCall) { c.Response.Bytes-- }), verdict{calls: 2, both: 2, other: 1}},
		{"a gap", as(func(c *matrixCall) { c.Coverage = []string{"gap"} }), verdict{calls: 2, both: 2, other: 1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, faults := tally(slices.Clone(test.got), want, server)
			if got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
			if fails := i > 0; fails != (len(faults) > 0) || fails == got.holds(len(want), 0) {
				t.Errorf("told: %v; in a crowd it holds: %v", faults, got.holds(len(want), 0))
			}
		})
	}
	for _, few := range []verdict{{both: 998, missing: 2}, {both: 999, unknownPeer: 1}, {both: 999}} {
		if !few.holds(1000, few.missing) {
			t.Errorf("%s: too strict", few)
		}
	}
	for _, many := range []verdict{{both: 998, missing: 2}, {both: 1000, unknownPeer: 2}, {both: 998}, {both: 1000, twice: 1}, {both: 1000, wrongPeer: 1}} {
		if many.holds(1000, 0) {
			t.Errorf("%s: too lax", many)
		}
	}
}
