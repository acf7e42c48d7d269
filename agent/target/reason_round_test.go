package target

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spile/spile/bpf"
)

func TestExplainIsBoundedAndOrdered(t *testing.T) {
	needRoot(t)
	var traffic []Traffic
	for i := range uint32(maxExplained + 50) {
		traffic = append(traffic, Traffic{PID: 1<<30 + i, Undecoded: 1 + uint64(i), QUIC: 5})
	}
	e := explainer(unknownToProbe)
	got := e.Explain(traffic)
	if len(got) != len(traffic) || got[0].TLSBytes != maxExplained+50 || got[1].TLSBytes != maxExplained+49 || got[0].QUICBytes != 5 {
		t.Fatalf("%d answers, the first %+v", len(got), got[0])
	}
	// Those with the most bytes come first, and the others have their turn though they never have more.
	looked := func(got []Uncovered) (n int) {
		for i, u := range got {
			switch u.Reason {
			case endedUnseen + "; " + quicReason:
				if n++; n != i+1 {
					t.Fatalf("answer %d is explained before answer %d", i, i-1)
				}
			case notYet + "; " + quicReason:
			default:
				t.Fatalf("answer %d: %q", i, u.Reason)
			}
		}
		return n
	}
	if n := looked(got); n == 0 || n > maxExplained {
		t.Errorf("%d processes were looked at in one round", n)
	}
	eventually(t, "everybody's turn", func() bool { return looked(e.Explain(traffic)) == len(traffic) })
}

// A process with QUIC or kTLS is told as that, beside what is known of its TLS.
func TestExplainQUICAndKTLS(t *testing.T) {
	needRoot(t)
	c := python(t, nil)
	decoded := copyFile(t, systemLibrary(t), filepath.Join(t.TempDir(), "libssl.so.3"))
	c.load(t, decoded)
	e := explainer(func(Identity, uint32) (bool, bool, string) { return true, true, "" })
	for _, tc := range []struct {
		name    string
		traffic Traffic
		want    string
	}{
		{"QUIC alone", Traffic{QUIC: 9}, quicReason},
		{"kTLS alone", Traffic{KTLS: true}, kernelReason},
		{"kTLS and TLS", Traffic{KTLS: true, Undecoded: 9}, "OpenSSL is decoded in this process, but " + kernelReason},
		{"kTLS and QUIC", Traffic{KTLS: true, QUIC: 9}, kernelReason + "; " + quicReason},
		{"nothing", Traffic{}, ""},
	} {
		tc.traffic.PID = c.pid()
		e.soon()
		got := e.Explain([]Traffic{tc.traffic})
		if got[0].Reason != tc.want || tc.want != "" && !strings.HasPrefix(got[0].Process, "python3") {
			t.Errorf("%s: %+v, want %q", tc.name, got, tc.want)
		}
	}
	e.soon()
	got := e.Explain([]Traffic{{PID: c.pid(), Undecoded: 9, QUIC: 9}})
	if !strings.HasPrefix(got[0].Reason, "OpenSSL is decoded in this process; ") || !strings.HasSuffix(got[0].Reason, "; "+quicReason) {
		t.Errorf("TLS and QUIC: %+v", got)
	}
}

// Bytes that come after the library was attached did not pass before that.
func TestExplainSeesThatBytesGrow(t *testing.T) {
	needRoot(t)
	c := python(t, nil)
	c.load(t, copyFile(t, systemLibrary(t), filepath.Join(t.TempDir(), "libssl.so.3")))
	attached := false
	e := explainer(func(Identity, uint32) (bool, bool, string) { return true, attached, "it is being attached" })
	for i, step := range []struct {
		attached  bool
		undecoded uint64
		before    bool // "before it was attached" is among the reasons
	}{{false, 100, false}, {true, 200, true}, {true, 200, true}, {true, 201, false}, {true, 201, false}} {
		attached = step.attached
		e.soon()
		got := e.Explain([]Traffic{{PID: c.pid(), Undecoded: step.undecoded}})
		if strings.Contains(got[0].Reason, "before it was attached") != step.before || strings.Contains(got[0].Reason, "OpenSSL is decoded") != step.attached {
			t.Errorf("step %d: %s", i, got[0].Reason)
		}
	}
}

// What was learnt of a process outlives it; its successor under the same id is another process.
func TestExplainKnowsTheDead(t *testing.T) {
	needRoot(t)
	c := python(t, nil)
	p, _, err := readProcess("/proc", c.pid())
	if err != nil {
		t.Fatal(err)
	}
	e := explainer(unknownToProbe)
	alive := Traffic{PID: c.pid(), Start: time.Duration(p.Start)*tick + 3*time.Millisecond, Undecoded: 4}
	other := alive
	other.Start += time.Hour
	if got := e.Explain([]Traffic{other}); got[0].Reason != endedUnseen || got[0].Process != "" {
		t.Errorf("another process under the id: %+v", got)
	}
	before := e.Explain([]Traffic{alive})
	if !strings.HasPrefix(before[0].Process, "python3") || strings.Contains(before[0].Reason, "ended") {
		t.Fatalf("alive: %+v", before)
	}
	c.Process.Kill()
	c.Wait()
	want := before[0].Reason + "; the process has ended"
	e.soon()
	if got := e.Explain([]Traffic{alive}); got[0].Reason != want || got[0].Process != before[0].Process {
		t.Errorf("gone, but not said by the kernel: %+v, want %q", got, want)
	}
	alive.Ended = true
	if got := e.Explain([]Traffic{alive}); got[0].Reason != want {
		t.Errorf("ended: %+v, want %q", got, want)
	}
	unseen := Traffic{PID: alive.PID, Start: alive.Start + 1, Undecoded: 1, Ended: true}
	if got := e.Explain([]Traffic{unseen}); got[0].Reason != endedUnseen {
		t.Errorf("ended unseen: %+v", got)
	}
	for _, k := range e.told {
		k.asked = time.Now().Add(-forgetAfter)
	}
	if e.Explain(nil); len(e.told) != 0 {
		t.Errorf("still remembered: %d", len(e.told))
	}
}

// A process is not read again while nothing can have changed.
func TestExplainLooksSeldom(t *testing.T) {
	needRoot(t)
	c := python(t, nil)
	e := explainer(unknownToProbe)
	looked := func(undecoded uint64) time.Time {
		e.Explain([]Traffic{{PID: c.pid(), Undecoded: undecoded}})
		return e.told[life{c.pid(), 0}].looked
	}
	ask(t, e, c.pid())
	moment := time.Now()
	e.told[life{c.pid(), 0}].looked = moment
	if again := looked(2); again != moment {
		t.Error("looked at twice within a moment")
	}
	past := time.Now().Add(-lookAgain)
	e.told[life{c.pid(), 0}].looked = past
	if again := looked(1); again != past {
		t.Error("looked at again though nothing moved")
	}
	if again := looked(2); again == past {
		t.Error("not looked at again though bytes moved")
	}
	past = time.Now().Add(-lookAnyway)
	e.told[life{c.pid(), 0}].looked = past
	if again := looked(2); again == past {
		t.Error("never looked at again")
	}
}

func TestExplainKernelThread(t *testing.T) {
	proc := newFakeProc(t, 90)
	if err := os.WriteFile(filepath.Join(proc.dir, "stat"), []byte("90 (kworker) S 2"+strings.Repeat(" 0", 17)+" 5 0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	e := explainer(unknownToProbe)
	e.Proc = filepath.Dir(proc.dir)
	got := e.Explain([]Traffic{{PID: 90, Undecoded: 1}})
	if got[0].Reason != "what does its TLS is unknown: it is a thread of the kernel" {
		t.Errorf("%+v", got)
	}
}

// A process that is over before its turn is told by the executable that was held for it, and nothing stays open.
func TestExplainABriefLife(t *testing.T) {
	needRoot(t)
	program, err := compileC(t, holding("ssl/tls13_client.cc", "ssl/s3_pkt.cc"))
	if err != nil {
		t.Skipf("no C compiler: %v", err)
	}
	e := explainer(unknownToProbe)
	live := func(program string) Traffic {
		c := run(t, program)
		pid := uint32(c.Process.Pid)
		eventually(t, "exec", func() bool { _, _, exe, _ := exeOf("/proc", pid); return exe == program })
		p, _, err := readProcess("/proc", pid)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Duration(p.Start) * tick
		id, _, _, err := exeOf("/proc", pid)
		if err != nil {
			t.Fatal(err)
		}
		e.hold(started{life{pid, start}, id})
		c.Process.Kill()
		c.Wait()
		return Traffic{PID: pid, Start: start, Undecoded: 5}
	}
	const want = "TLS by BoringSSL or AWS-LC linked statically into the executable and stripped of the symbols that probes need is not decoded yet; the process has ended"
	for _, ended := range []bool{false, true} {
		over := live(program)
		over.Ended = ended
		for range 2 {
			if got := e.Explain([]Traffic{over}); got[0].Reason != want || got[0].Process != "program" {
				t.Errorf("ended %v: %+v", ended, got)
			}
		}
	}
	cat, _ := compileC(t, holding("nothing"))
	if got := e.Explain([]Traffic{live(cat)}); !strings.HasPrefix(got[0].Reason, "what does its TLS is unknown: its executable shows no TLS library, and it ended before") {
		t.Errorf("nothing in it: %+v", got)
	}
	if len(e.brief.held) != 0 {
		t.Errorf("%d executables are still held", len(e.brief.held))
	}
	self := uint32(os.Getpid())
	own, _, err := readProcess("/proc", self)
	if err != nil {
		t.Fatal(err)
	}
	for i := range maxBrief + 10 { // within one tick, all are this process
		e.hold(started{life{self, time.Duration(own.Start)*tick + time.Duration(i)}, bpf.FileID{}})
	}
	nth := func(i int) life { return life{self, time.Duration(own.Start)*tick + time.Duration(i)} }
	if len(e.brief.held) != maxBrief || e.brief.holds(nth(9)) || !e.brief.holds(nth(10)) {
		t.Errorf("%d are held", len(e.brief.held))
	}
	eventually(t, "the executables to be let go of", func() bool {
		e.brief.mu.Lock()
		defer e.brief.mu.Unlock()
		return len(e.brief.held) == 0
	})
	e.hold(started{of: life{self, 0}})
	if len(e.brief.held) != 1 {
		t.Errorf("%d are held", len(e.brief.held))
	}
	if e.Close(); len(e.brief.held) != 0 {
		t.Errorf("%d are held after Close", len(e.brief.held))
	}
	if e.hold(started{of: life{self, 0}}); len(e.brief.held) != 0 {
		t.Errorf("%d are held that were opened after Close", len(e.brief.held))
	}
}

// Names of files are chosen by those who are watched.
func TestReasonsAreOneLine(t *testing.T) {
	for in, want := range map[string]string{
		"a\nb":               "a; b",
		"a\x1b[2Jb\rc\u202e": "a?[2Jb?c?",
		"bad \xff\xfe utf8":  "bad ?? utf8",
		"ümlaut":             "ümlaut",
	} {
		if got := OneLine(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	if got := OneLine(strings.Repeat("ü", maxReason)); len(got) > maxReason || !strings.HasSuffix(got, "ü…") {
		t.Errorf("%d bytes: %q", len(got), got[len(got)-10:])
	}
}
