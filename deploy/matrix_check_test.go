package deploy

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// answers is what every server of the matrix says to request n, by n%4: two pages, the answer to a POST, and "not found".
var answers = struct {
	sizes  [4]int
	status [4]int
	method [4]string
}{[4]int{40, 20000, 16, 4}, [4]int{200, 200, 200, 404}, [4]string{"GET", "GET", "POST", "GET"}}

// postBytes is the size of the body of a POST.
const postBytes = 3000

// matrixCall is a line of `spile calls`, as far as the matrix compares it.
type matrixCall struct {
	Observed, Protocol, Scheme, Method, Path string
	StatusCode                               int `json:"status_code"`
	Source, Destination                      peerLine
	Coverage                                 []string
	Request, Response                        struct {
		Bytes       int
		ContentType string `json:"content_type"`
	}
}

func (c matrixCall) String() string {
	return fmt.Sprintf("%s %s:%d → %s:%d, %s %s %s %d, %d bytes asked, %d answered, %v", c.Observed, c.Source.Process, c.Source.Port, c.Destination.Process, c.Destination.Port,
		c.Protocol, c.Method, c.Path, c.StatusCode, c.Request.Bytes, c.Response.Bytes, c.Coverage)
}

// wanted is a call as it must come out; a size below 0 is not known.
type wanted struct {
	asked
	client, server, protocol string
	status, size             int
	early                    bool // answered before its body was read
	long                     bool // more body than is described
}

func expect(row matrixRow, asks []asked) map[string]wanted {
	want := map[string]wanted{}
	for _, a := range asks {
		w := wanted{asked: a, client: row.client.process, server: row.server.process, protocol: "http/1.1", status: answers.status[a.n%4], size: answers.sizes[a.n%4],
			long: answers.sizes[a.n%4] > 16<<10}
		if row.mode == "h2" {
			w.protocol = "http/2"
		}
		w.early = row.server.early && answers.method[a.n%4] == "POST"
		if row.server.single {
			w.status, w.size = 200, -1
		}
		want[fmt.Sprintf("/%d/%d", a.port, a.n)] = w
	}
	return want
}

// verdict counts what came of the calls of a row.
type verdict struct{ calls, both, missing, twice, wrongPeer, unknownPeer, other int }

func (v verdict) String() string {
	return fmt.Sprintf("%d calls, %d from both ends, %d missing, %d twice, %d wrong peers, %d unknown peers, %d other faults", v.calls, v.both, v.missing, v.twice, v.wrongPeer, v.unknownPeer, v.other)
}

// judge fails the test where calls are not what was asked of the server on a port.
func judge(t *testing.T, got []matrixCall, want map[string]wanted, port int) verdict {
	t.Helper()
	v, faults := tally(got, want, port)
	for _, kind := range slices.Sorted(maps.Keys(faults)) {
		t.Errorf("%s, for example: %s", kind, faults[kind])
	}
	return v
}

// tally holds calls against what was asked. Of each kind of fault it gives the first example. The ports of every call are
// held: an end with a wrong peer joins no other, so it is the second call of its request.
func tally(got []matrixCall, want map[string]wanted, port int) (v verdict, faults map[string]string) {
	faults = map[string]string{}
	fault := func(count *int, kind string, c matrixCall) {
		*count++
		if faults[kind] == "" {
			faults[kind] = c.String()
		}
	}
	times, joined := map[string]int{}, map[string]bool{}
	for _, c := range got {
		v.calls++
		_, key, _ := strings.Cut(strings.TrimPrefix(c.Path, "/"), "/")
		key = "/" + key
		w, known := want[key]
		if !known {
			fault(&v.other, "nobody asked for this", c)
			continue
		}
		times[key]++
		if times[key] > 1 {
			fault(&v.twice, "one request, two calls", c)
		}
		switch {
		case c.Source.Port == 0 || c.Destination.Port == 0:
			fault(&v.unknownPeer, "an end is not known", c)
		case c.Source.Port != w.port || c.Destination.Port != port:
			fault(&v.wrongPeer, "wrong peer: the path tells the port that asked", c)
		case times[key] > 1: // told above
		case c.Source.Process != w.client || c.Destination.Process != w.server:
			fault(&v.other, "wrong programs: want "+w.client+" → "+w.server, c)
		case c.Method != answers.method[w.n%4] || c.StatusCode != w.status || c.Protocol != w.protocol || c.Scheme != "https":
			fault(&v.other, fmt.Sprintf("want %s, %s, status %d", w.protocol, answers.method[w.n%4], w.status), c)
		case c.Method == "POST" && !w.early && (c.Request.Bytes != postBytes || c.Request.ContentType != "application/json"):
			fault(&v.other, fmt.Sprintf("want a request body of %d bytes of JSON", postBytes), c)
		case w.size >= 0 && w.status == 200 && (c.Response.Bytes != w.size || c.Response.ContentType != "application/json"):
			fault(&v.other, fmt.Sprintf("want a response body of %d bytes of JSON", w.size), c)
		case slices.ContainsFunc(c.Coverage, func(s string) bool { return s != "truncated" }) || len(c.Coverage) > 0 && !w.long && !w.early && c.Method != "POST":
			// Of bodies beyond 256 bytes not all is described where many come.
			fault(&v.other, "not the whole call", c)
		}
		if c.Observed == "both" {
			if !joined[key] {
				v.both++
			}
			joined[key] = true
		} else {
			fault(new(int), "seen from one end", c)
		}
	}
	var absent []string
	for key := range want {
		if times[key] == 0 {
			v.missing++
			absent = append(absent, key)
		}
	}
	if v.missing > 0 {
		slices.Sort(absent)
		faults["requests are no call"] = fmt.Sprintf("%s, %d of %d", absent[0], v.missing, len(want))
	}
	return v, faults
}

// secondLeg holds what a proxy asked nginx against nginx's own log: path → port of the proxy.
func (m *matrix) secondLeg(t *testing.T, got []matrixCall, prefix, proxy string) {
	t.Helper()
	want := map[string]int{}
	log, err := os.ReadFile(filepath.Join(m.dir, "nginx", "access.log"))
	must(t, err)
	for line := range strings.Lines(string(log)) {
		port, path, _ := strings.Cut(strings.TrimSpace(line), " ")
		if strings.HasPrefix(path, "/"+prefix+"/") {
			want[path], _ = strconv.Atoi(port)
		}
	}
	wrong := 0
	for _, c := range got {
		if c.Source.Port != want[c.Path] || c.Source.Process != proxy || c.Destination.Process != "nginx" || c.Observed != "both" {
			if wrong++; wrong <= 3 {
				t.Errorf("behind the proxy: %s, want source port %d", c, want[c.Path])
			}
		}
		delete(want, c.Path)
	}
	if wrong > 0 {
		t.Errorf("behind the proxy: %d of %d calls are wrong: %s", wrong, len(got), summary(got))
	}
	if len(want) > 0 {
		t.Errorf("behind the proxy: %d requests are no call, for example %v", len(want), slices.Sorted(maps.Keys(want))[0])
	}
	t.Logf("behind %s: %d calls", proxy, len(got))
}

// summary says in a few words what was seen.
func summary(calls []matrixCall) string {
	count := map[string]int{}
	for _, c := range calls {
		count[fmt.Sprintf("%s (%s:%v → %s:%v)", c.Observed, c.Source.Process, c.Source.Port != 0, c.Destination.Process, c.Destination.Port)]++
	}
	return fmt.Sprintf("%d calls %v", len(calls), count)
}
