package deploy

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// arm is a way in which a server runs: alone, probed, watched, behind a proxy.
type arm struct {
	name  string
	begin func(b *bench, s benchServer, pid int) *armed
}

// armed is an arm that is in force.
type armed struct {
	port   int                                            // where clients ask; 0 = the server itself
	costs  map[string]int                                 // who works besides the server → process
	settle func(sent int, progress func()) (seen float64) // waits until everything sent since the last time is counted; nil = the arm sees nothing
	signal func(syscall.Signal)                           // reaches who works elsewhere in the field, while a load runs; nil = nobody
	end    func()
}

func (a *armed) tell(s syscall.Signal) {
	if a.signal != nil {
		a.signal(s)
	}
}

const (
	armNone       = "none"
	armEmpty      = "empty probes, offset 0"
	armEmptyInner = "empty probes, our sites"
	armCopy       = "copy-only reader"
	armSpile      = "spile"
	armNginxHop   = "nginx hop"
	armHaproxyHop = "haproxy hop"

	stageFull    = "full"
	stageSampled = "sampled"
)

// benchArms lists what a server is measured under, besides alone: the first under everything.
func benchArms(b *bench, s benchServer) []arm {
	arms := []arm{
		{armEmpty, floor("entry", "nothing")},
		{armEmptyInner, floor("inner", "nothing")},
		{armCopy, floor("inner", "copy")},
		{armSpile, spileAt(stageFull)},
	}
	if !s.first {
		return arms
	}
	for _, stage := range b.stages {
		arms = append(arms, arm{armSpile + ", " + stage, spileAt(stage)})
	}
	arms = append(arms, arm{armNginxHop, nginxHop})
	if _, err := exec.LookPath("haproxy"); err == nil { // `make bench` brings it
		arms = append(arms, arm{armHaproxyHop, haproxyHop})
	}
	return arms
}

// floor runs testdata/bench/floor on the server.
func floor(at, does string) func(*bench, benchServer, int) *armed {
	return func(b *bench, s benchServer, pid int) *armed {
		b.t.Helper()
		cmd := exec.Command(b.floor, fmt.Sprint(pid), s.exe, s.kind, at, does)
		stdin, err := cmd.StdinPipe()
		must(b.t, err)
		stdout, w, err := os.Pipe()
		must(b.t, err)
		cmd.Stdout = w
		t := stoppable(b.t)
		p := begin(t, cmd)
		w.Close()
		answers := bufio.NewReader(stdout)
		if line, err := answers.ReadString('\n'); err != nil || line != "ready\n" {
			b.t.Fatalf("floor: %q, %v: %s", line, err, p.log)
		}
		a := &armed{end: func() {
			stdin.Close()
			<-p.done
			stdout.Close()
			if code := p.ProcessState.ExitCode(); code != 0 {
				b.t.Errorf("floor ended with %d: %s", code, p.log)
			}
			t.stop()
		}}
		if does == "copy" {
			var records, lost uint64
			a.costs = map[string]int{"agent": p.Process.Pid}
			a.settle = func(_ int, progress func()) float64 {
				var r, l, bytes uint64
				fmt.Fprintln(stdin)
				line, err := answers.ReadString('\n')
				must(b.t, err)
				_, err = fmt.Sscan(line, &r, &l, &bytes)
				must(b.t, err)
				progress()
				share := float64(r-records) / max(1, float64(r-records+l-lost))
				if r == records {
					share = 0
				}
				records, lost = r, l
				return share
			}
		}
		return a
	}
}

// spileAt runs the product, with the governor held at a stage where the agent has one. Only the server is watched: the
// clients' end would be a second sight of the same calls.
func spileAt(stage string) func(*bench, benchServer, int) *armed {
	return func(b *bench, s benchServer, _ int) *armed {
		b.t.Helper()
		w := b.watch(stage, b.learned[s.name])
		agent := w.agentPID()
		return &armed{
			costs:  map[string]int{"agent": agent, "collector": w.Process.Pid},
			settle: w.settle,
			// A collector serves many hosts from another: here it would take its half of the two processors from the server.
			signal: func(s syscall.Signal) { must(b.t, w.Process.Signal(s)) },
			end: func() {
				b.resident = append(b.resident, occupiedBy(b.t, agent))
				w.end()
			},
		}
	}
}

// watched is a product whose calls are counted load by load.
type watched struct {
	*product
	stopped     *stopped
	stage       string
	known, lost uint64
}

// watch starts the product with what an agent before it has learned of the probed files; empty = nothing.
func (b *bench) watch(stage, learned string) *watched {
	b.t.Helper()
	self, err := os.Executable()
	must(b.t, err)
	settings := map[string]string{
		"SPILE_PROBE_BUDGET": "0", // no governor but the bench: the agent stays far below its own
		// What asks is left out by name: a selector of programs would be asked with each read and write, and no default has one.
		"SPILE_DENY": "exe=/usr/bin/h2load exe=" + self,
	}
	if len(b.stages) > 0 {
		settings["SPILE_GOVERNOR_STAGE"] = stage
	}
	for name, value := range settings {
		must(b.t, os.Setenv(name, value))
		defer os.Unsetenv(name)
	}
	data := b.t.TempDir()
	if learned != "" {
		output(b.t, "cp", "-a", learned+"/.", data)
	}
	t := stoppable(b.t)
	w := &watched{product: upIn(t, data, "--target", "netns=self"), stopped: t, stage: stage}
	w.known, w.lost = w.total(), w.given()
	return w
}

func (w *watched) end() {
	w.t.Helper()
	if code := w.stop(w.t, 15*time.Second); code != 0 {
		w.t.Errorf("spile up ended with %d:\n%s", code, w.log)
	}
	w.stopped.stop()
}

// teach lets an agent find out what it can of the server's files: that they bear probes, and where these are cheap. What
// it kept is what all later agents begin with, as they do on a host where the same libraries were probed before.
func (b *bench) teach(s benchServer) {
	b.t.Helper()
	w := b.watch(stageFull, "")
	began := time.Now()
	for time.Since(began) < proven || !w.decided(s.exe) {
		b.warm(benchPort, s, 200)
		if time.Since(began) > time.Minute {
			b.t.Fatalf("%s: the agent has not decided about its probes within a minute: %+v", s.name, w.probes(s.exe))
		}
		time.Sleep(time.Second)
	}
	for _, p := range w.probes(s.exe) {
		fmt.Printf("%s: %s\n", s.name, strings.Join(p.Sites, "; "))
	}
	w.end()
	b.learned[s.name] = w.data
}

// proven is after how long without harm an agent remembers a build as harmless, with some seconds for the first calls.
const proven = 15 * time.Second

// benchProbe is a file with probes in an agent's account.
type benchProbe struct {
	Path, State string
	Sites       []string // where they lie
}

func (w *watched) probes(file string) (all []benchProbe) {
	w.t.Helper()
	for _, a := range jsonLines[struct{ Health struct{ Probes []benchProbe } }](w.t, w.verb("agents")) {
		for _, p := range a.Health.Probes {
			if p.Path == file {
				all = append(all, p)
			}
		}
	}
	return all
}

// decided reports whether the probes of a file are where they will stay. What the server never calls stays undecided.
func (w *watched) decided(file string) bool {
	probes := w.probes(file)
	return len(probes) > 0 && !slices.ContainsFunc(probes, func(p benchProbe) bool {
		return p.State != "attached" || slices.ContainsFunc(p.Sites, func(s string) bool {
			return strings.HasSuffix(s, "once live calls agree") && !strings.Contains(s, "_ex:")
		})
	})
}

// settle waits until the inventory has the calls that were sent, or until the agent knows what became of all of them. It
// tells of each step: what an idle agent uses while nothing comes any more is not the calls'.
func (w *watched) settle(sent int, progress func()) float64 {
	w.t.Helper()
	total, since := w.total(), time.Now()
	progress()
	for total < w.known+uint64(sent) && time.Since(since) < patience {
		time.Sleep(300 * time.Millisecond)
		if now := w.total(); now != total {
			total, since = now, time.Now()
			progress()
		} else if time.Since(since) > secondGlance && (w.stage == stageSampled || total+w.given() >= w.known+w.lost+uint64(sent)) {
			break
		}
	}
	seen := total - w.known
	w.known, w.lost = total, w.given()
	return float64(seen) / float64(sent)
}

// given is how many calls the agent knows that it did not show.
func (w *watched) given() uint64 { return w.count("flow", "lost_server") }

const hopPort = 9443

// nginxHop: client -TLS-> nginx -plain-> the same nginx.
func nginxHop(b *bench, _ benchServer, _ int) *armed {
	b.t.Helper()
	conf := fmt.Sprintf("upstream pages { server %s; keepalive 64; keepalive_requests 10000000; }\nserver {\nlisten %s ssl http2;\nssl_certificate %s/cert.pem; ssl_certificate_key %[3]s/key.pem;\n"+
		"location / { proxy_pass http://pages; proxy_http_version 1.1; proxy_set_header Connection \"\"; }\n}", address(plainPort), address(hopPort), b.dir)
	t := stoppable(b.t)
	worker := nginxWorker(t, b.libraries, conf)
	return t.hop(worker)
}

const hopHaproxy = `
global
	maxconn 4000
	nbthread 1
defaults
	mode http
	timeout connect 5s
	timeout client 300s
	timeout server 300s
	http-reuse always
frontend tls
	bind %[2]s ssl crt %[1]s/both.pem alpn h2,http/1.1
	default_backend pages
backend pages
	server nginx %[3]s
`

func haproxyHop(b *bench, _ benchServer, _ int) *armed {
	b.t.Helper()
	file := b.t.TempDir() + "/haproxy.conf"
	must(b.t, os.WriteFile(file, fmt.Appendf(nil, hopHaproxy, b.dir, address(hopPort), address(plainPort)), 0o644))
	t := stoppable(b.t)
	cmd := exec.Command("haproxy", "-db", "-f", file)
	cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+b.libraries)
	return t.hop(begin(t, cmd).Process.Pid)
}

// stopped lets what registers itself for the end of a test end earlier: with its arm.
type stopped struct {
	testing.TB
	ends []func()
}

func stoppable(t testing.TB) *stopped {
	s := &stopped{TB: t}
	t.Cleanup(s.stop)
	return s
}

func (s *stopped) Cleanup(f func()) { s.ends = append(s.ends, f) }

func (s *stopped) stop() {
	for _, f := range slices.Backward(s.ends) {
		f()
	}
	s.ends = nil
}

func (s *stopped) hop(pid int) *armed {
	s.Helper()
	eventually(s.TB, 10*time.Second, "the proxy listens", func() bool { return dials(address(hopPort)) })
	return &armed{port: hopPort, costs: map[string]int{"proxy": pid}, end: s.stop}
}

// offered lists the governor's stages that the agent can be held at.
func offeredStages(t testing.TB) []string {
	t.Helper()
	cmd := exec.Command(binaries(t).agent, "--help")
	var help strings.Builder
	cmd.Stdout, cmd.Stderr = &help, io.Discard
	must(t, cmd.Run())
	if !strings.Contains(help.String(), "--governor-stage") {
		return nil
	}
	return []string{"no_bodies", "no_responses", stageSampled}
}
