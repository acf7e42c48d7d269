package deploy

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// The program matrix: real servers and real clients talk TLS to each other, and what Spile says of it is held against
// what they did. A row is a server, a client and a protocol. The truth is in the path of each request,
// /rowN/PORT/REQUEST: the port that the client's end of the connection has, and a number that names method, status and
// sizes (see answers). Each request must come out as exactly one call, seen from both ends, with the right ports,
// program names, status and body sizes.

// matrixEnv asks for all rows; without it a slice runs that has each program at least once at each end.
const matrixEnv = "TEST_SPILE_MATRIX"

// sliceSeed chooses the rows of the slice; another seed is another choice.
const sliceSeed = 57

func wholeMatrix() bool { return os.Getenv(matrixEnv) != "" }

// participant is one end of a row.
type participant struct {
	name    string   // in the name of the row
	process string   // as calls name it
	modes   []string // "h1", "h2"
	lacks   string   // why it cannot run on this machine
	heavy   bool     // not in the slice
	build   bool     // one of the Go builds: paired with few others
}

type matrixServer struct {
	participant
	start  func(t *testing.T, m *matrix, mode string) *process
	single bool // answers each GET with its one page and closes
	early  bool // answers a POST before it has read the body: of that body not all need be seen
	proxy  bool // asks nginx for each answer, over TLS
}

type matrixClient struct {
	participant
	open func(t *testing.T, m *matrix, mode string) caller
}

// caller is a client at work. The server's address is m.address.
type caller interface {
	// round opens connections and asks over each of them, and tells what it asked from which port.
	round(t *testing.T, prefix string, conns, requests int) []asked
}

type asked struct{ port, n int }

type matrixRow struct {
	server matrixServer
	client matrixClient
	mode   string
}

func (r matrixRow) String() string {
	return r.server.name + "-" + r.mode + "/" + r.client.name
}

// behindProxy is how far nginx's port is from that of the proxy in front of it.
const behindProxy = 1000

// matrix is what rows share.
type matrix struct {
	*product
	dir     string // certificate and pages, for every user to read
	port    int    // of the latest server
	address string
	single  bool // the latest server closes after each answer
	rows    int
	fixed   int // the latest client port that the test chose
}

// newMatrix chooses client ports from first on: each test its own, for the kernel keeps a port for a minute after its end.
func newMatrix(t *testing.T, first int) *matrix {
	t.Helper()
	m := &matrix{dir: openDir(t), port: 9100, fixed: first}
	writeCertificate(t, m.dir)
	cert, err := os.ReadFile(filepath.Join(m.dir, "cert.pem"))
	must(t, err)
	key, err := os.ReadFile(filepath.Join(m.dir, "key.pem"))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(m.dir, "both.pem"), append(cert, key...), 0o644))
	for i, size := range answers.sizes {
		page := fmt.Sprintf(`{"a":"%s"}`, strings.Repeat("x", max(0, size-8)))
		must(t, os.WriteFile(fmt.Sprintf("%s/%d.json", m.dir, i), []byte(page), 0o644))
	}
	m.product = up(t)
	return m
}

// openDir is a test's directory that servers under other users can enter.
func openDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		must(t, os.Chmod(d, 0o755))
	}
	return dir
}

func TestMatrix(t *testing.T) {
	needsRoot(t)
	rows, missing := matrixRows(t)
	for _, p := range missing {
		t.Run(p.name, func(t *testing.T) { t.Skip(p.lacks) })
	}
	m := newMatrix(t, 20000)
	began := time.Now()
	for len(rows) > 0 {
		first := rows[0]
		end := slices.IndexFunc(rows, func(r matrixRow) bool { return r.server.name != first.server.name || r.mode != first.mode })
		if end < 0 {
			end = len(rows)
		}
		group := rows[:end]
		rows = rows[end:]
		t.Run(first.server.name+"-"+first.mode, func(t *testing.T) {
			m.serve(t, first.server, first.mode)
			for _, row := range group {
				t.Run(row.client.name, func(t *testing.T) { m.run(t, row) })
			}
		})
	}
	t.Run("redis", func(t *testing.T) { m.redis(t) })
	if wholeMatrix() {
		t.Run("postgres", func(t *testing.T) { m.postgres(t) })
	}
	t.Logf("%d rows in %s", m.rows, time.Since(began).Round(time.Second))
}

// matrixRows lists the rows to run, sorted by server, and the programs that are not here.
func matrixRows(t *testing.T) (rows []matrixRow, missing []participant) {
	t.Helper()
	servers, clients := matrixServers(t), matrixClients(t)
	miss := func(p participant) {
		if p.lacks != "" && !slices.ContainsFunc(missing, func(q participant) bool { return q.name == p.name }) {
			missing = append(missing, p)
		}
	}
	for _, s := range servers {
		miss(s.participant)
		for _, c := range clients {
			miss(c.participant)
			for _, mode := range s.modes {
				if s.lacks == "" && c.lacks == "" && slices.Contains(c.modes, mode) && pairs(s, c) {
					rows = append(rows, matrixRow{s, c, mode})
				}
			}
		}
	}
	if !wholeMatrix() {
		rows = slice(rows)
	}
	slices.SortStableFunc(rows, func(a, b matrixRow) int {
		return cmp.Or(strings.Compare(a.server.name, b.server.name), strings.Compare(a.mode, b.mode))
	})
	return rows, missing
}

// pairs says which programs meet: all, but for the Go builds, which meet nginx, curl and themselves, and for a server
// that closes after each answer, which needs a client that does not mind.
func pairs(s matrixServer, c matrixClient) bool {
	switch {
	case s.build && c.build:
		return s.name == c.name
	case s.build:
		return c.name == "curl"
	case c.build:
		return s.name == "nginx"
	case s.single:
		return slices.Contains([]string{"curl", "wget", "gnutls-cli"}, c.name)
	}
	return true
}

// slice chooses rows until each program had each of its protocols at each of its ends.
func slice(rows []matrixRow) []matrixRow {
	random := rand.New(rand.NewPCG(sliceSeed, 0))
	random.Shuffle(len(rows), func(i, j int) { rows[i], rows[j] = rows[j], rows[i] })
	had := map[string]bool{}
	return slices.DeleteFunc(rows, func(r matrixRow) bool {
		s, c := "server "+r.server.name+r.mode, "client "+r.client.name+r.mode
		drop := had[s] && had[c]
		had[s], had[c] = true, true
		return drop
	})
}

// serve starts a server on a port of its own and waits until it listens.
func (m *matrix) serve(t *testing.T, s matrixServer, mode string) {
	t.Helper()
	m.port++
	m.address = fmt.Sprintf("127.0.0.1:%d", m.port)
	m.single = s.single
	if s.proxy {
		startPages(t, m, m.port+behindProxy)
	}
	s.start(t, m, mode)
	eventually(t, 15*time.Second, s.name+" listens", func() bool { return listens(t, m.port) })
}

// listens asks the kernel and not the server, which would see a handshake that comes to nothing.
func listens(t *testing.T, port int) bool {
	t.Helper()
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		sockets, err := os.ReadFile(table)
		must(t, err)
		for line := range strings.Lines(string(sockets)) {
			f := strings.Fields(line)
			if len(f) > 3 && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) && f[3] == "0A" { // TCP_LISTEN
				return true
			}
		}
	}
	return false
}

// run makes one row: the warm-up, then the calls that count.
func (m *matrix) run(t *testing.T, row matrixRow) {
	m.rows++
	client := row.client.open(t, m, row.mode)
	warmed := m.warm(t, client)
	conns, requests := 4, 8
	measured := fmt.Sprintf("row%d", m.rows)
	want := expect(row, client.round(t, measured, conns, requests))
	count := len(want)
	if row.server.proxy {
		count *= 2
	}
	got := m.all(measured, count)
	if row.server.proxy {
		behind := func(c matrixCall) bool { return c.Destination.Port == m.port+behindProxy }
		m.secondLeg(t, slices.DeleteFunc(slices.Clone(got), func(c matrixCall) bool { return !behind(c) }), measured, row.server.process)
		got = slices.DeleteFunc(got, behind)
	}
	t.Logf("%s: %s; warm-up %s", row, judge(t, got, want, m.port), warmed.Round(10*time.Millisecond))
}

// warm makes calls, one connection each, until one was seen from both ends: from then on the probes are in place.
func (m *matrix) warm(t *testing.T, client caller) time.Duration {
	t.Helper()
	warm := fmt.Sprintf("warm%d", m.rows)
	began := time.Now()
	var seen []matrixCall
	for !slices.ContainsFunc(seen, func(c matrixCall) bool { return c.Observed == "both" && c.Destination.Port == m.port }) {
		if time.Since(began) > 10*time.Second {
			t.Errorf("no call of the warm-up was seen from both ends within 10 s; seen: %s", summary(seen))
			break
		}
		client.round(t, warm, 1, 1)
		time.Sleep(150 * time.Millisecond)
		seen = m.under(warm)
	}
	return time.Since(began)
}

// under gives the calls whose path begins with a prefix.
func (m *matrix) under(prefix string) []matrixCall {
	m.t.Helper()
	return jsonLines[matrixCall](m.t, m.verb("calls", "--since", "1h", "--path", "/"+prefix+"/*"))
}

// all waits until n calls are there, or until no more come, and then for a moment more: for what is told twice.
func (m *matrix) all(prefix string, n int) []matrixCall {
	m.t.Helper()
	last, since := 0, time.Now()
	for time.Since(since) < 5*time.Second {
		got := len(m.under(prefix))
		if got >= n {
			break
		}
		if got != last {
			last, since = got, time.Now()
		}
		time.Sleep(100*time.Millisecond + time.Duration(n)*time.Millisecond/10)
	}
	time.Sleep(300 * time.Millisecond)
	return m.under(prefix)
}
