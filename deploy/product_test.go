package deploy

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// product is a running `spile up`.
type product struct {
	*process
	t    testing.TB
	bin  programs
	data string
	from time.Time // the start of the agent that ready waits for, or any time before it
}

// The lines of DESIGN's contracts, as far as the tests read them.
type (
	callLine struct {
		ID, Observed, Protocol, Scheme, Method, Authority, Path, Route, Service string
		StatusCode                                                              int `json:"status_code"`
		Source, Destination                                                     peerLine
		Coverage                                                                []string
		Auth                                                                    struct{ Scheme, Location string }
		Response                                                                struct{ Fields []fieldLine }
		Request                                                                 struct{ Fields []fieldLine }
	}
	fieldLine struct{ Path, Type, Class string }
	peerLine  struct {
		Address, Process, Container string
		Port, PID                   int
		Coverage                    *float64
	}
	endpointLine struct {
		ID, Service, Method, Route, State string
		Calls                             uint64
		Statuses                          map[string]uint64
		Coverage                          *float64
	}
	findingLine struct {
		ID, Rule, Severity, Service, Method, Route, Scope string
		Count                                             uint64
	}
	agentLine struct {
		Node      string
		Connected bool
		Calls     uint64
		Health    struct {
			Epoch    uint64
			Rungs    map[string]string
			Counts   []countLine
			Probes   []struct{ Library, Path, State, Reason string }
			Coverage []coverageLine

			CgroupLosses []lossLine `json:"cgroup_losses"`
		}
	}
	lossLine struct {
		Cgroup, Reason      string
		Calls, Bytes, Heads uint64
	}
	coverageLine struct {
		PID                        int
		Process, Reason, Container string
		PodUID                     string `json:"pod_uid"`
		TLSBytes                   uint64 `json:"tls_bytes"`
		DecodedBytes               uint64 `json:"decoded_bytes"`
		UnboundBytes               uint64 `json:"unbound_bytes"`
		QUICBytes                  uint64 `json:"quic_bytes"`
		Calls                      uint64
		LostCalls                  uint64 `json:"lost_calls"`
	}
	countLine struct {
		Stage, Name string
		Value       uint64
		Lost        bool
	}
)

// up starts the product on what runs in the test's own network namespace, and waits until its agent watches.
func up(t testing.TB, args ...string) *product {
	t.Helper()
	return upIn(t, t.TempDir(), args...)
}

func upIn(t testing.TB, data string, args ...string) *product {
	t.Helper()
	bin := binaries(t)
	if !strings.Contains(strings.Join(args, " "), "--target") {
		args = append(args, "--target", "netns=self")
	}
	p := &product{t: t, bin: bin, data: data, from: time.Now()}
	p.process = begin(t, exec.Command(bin.spile, append([]string{"up", "--data", data}, args...)...))
	p.ready()
	return p
}

// ready waits until an agent that started after p.from is connected and has said which hooks it uses.
func (p *product) ready() {
	p.t.Helper()
	eventually(p.t, 60*time.Second, "an agent that watches", func() bool {
		select {
		case <-p.done:
			p.t.Fatalf("spile up ended early:\n%s", p.log)
		default:
		}
		out, err := exec.Command(p.bin.spile, "agents", "--data", p.data, "-o", "json").Output()
		var a agentLine
		return err == nil && json.Unmarshal(out, &a) == nil && a.Connected && len(a.Health.Rungs) > 0 && a.Health.Epoch > uint64(p.from.UnixNano())
	})
}

func (p *product) verb(args ...string) []byte {
	p.t.Helper()
	return output(p.t, p.bin.spile, append(args, "--data", p.data, "-o", "json")...)
}

func (p *product) calls() []callLine {
	p.t.Helper()
	return jsonLines[callLine](p.t, p.verb("calls", "--since", "1h"))
}

func (p *product) endpoints() []endpointLine {
	p.t.Helper()
	return jsonLines[endpointLine](p.t, p.verb("endpoints"))
}

func (p *product) findings() []findingLine {
	p.t.Helper()
	return jsonLines[findingLine](p.t, p.verb("findings"))
}

func (p *product) agent() agentLine {
	p.t.Helper()
	all := jsonLines[agentLine](p.t, p.verb("agents"))
	if len(all) != 1 {
		p.t.Fatalf("%d agents, want 1", len(all))
	}
	return all[0]
}

// count sums a counter of the agent's own account.
func (p *product) count(stage, name string) uint64 {
	p.t.Helper()
	var sum uint64
	for _, c := range p.agent().Health.Counts {
		if c.Stage == stage && c.Name == name {
			sum += c.Value
		}
	}
	return sum
}

// total sums the calls of all endpoints.
func (p *product) total() uint64 {
	p.t.Helper()
	var sum uint64
	for _, e := range p.endpoints() {
		sum += e.Calls
	}
	return sum
}

// An agent comes back to its collector within 5 s; a busy machine needs longer.
const (
	patience     = 20 * time.Second
	secondGlance = 5 * time.Second
)

// settled waits until n calls are in the inventory, or until the figure has stood still for a while, and returns it.
func (p *product) settled(n uint64) uint64 {
	p.t.Helper()
	began := time.Now()
	last, since := p.total(), began
	for last < n && time.Since(since) < patience || last > n && time.Since(since) < secondGlance {
		time.Sleep(200 * time.Millisecond)
		if now := p.total(); now != last {
			last, since = now, time.Now()
		}
	}
	if last != n {
		p.t.Logf("%d of %d calls after %v, %v without a change; the agent's account: %+v", last, n, time.Since(began), time.Since(since), p.agent().Health.Counts)
	}
	return last
}
