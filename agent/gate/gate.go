package gate

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Host is where the gates are tried. Tests put a made-up one in its place.
type Host struct {
	Proc  string   // where procfs is mounted
	Sys   string   // where sysfs is mounted
	Child []string // the command that calls Child
	Kills []int    // the system calls that the child's filter kills
}

// ThisHost is the machine that runs. The child is this very executable, also where its file was replaced meanwhile.
func ThisHost() Host {
	return Host{Proc: "/proc", Sys: "/sys", Child: []string{"/proc/self/exe", Verb}, Kills: ProbeSyscalls()}
}

// Report is what came of it.
type Report struct {
	Gates []Result
	Costs Costs
}

// Refused returns the gate of this name where it is refused, and nil otherwise.
func (r Report) Refused(name string) *Result {
	for i, g := range r.Gates {
		if g.Name == name && g.State == Refused {
			return &r.Gates[i]
		}
	}
	return nil
}

// patience bounds the whole test. It takes 0.2 s, and 2 s on an emulated machine; to give up early would be to attach untried.
const patience = 5 * time.Second

// Test tries the gates and measures what probes cost. It changes nothing on the host.
func Test(ctx context.Context, h Host) Report {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	r := Report{Costs: Typical()}
	r.Gates = append(r.Gates, r.child(ctx, h))
	r.Gates = append(r.Gates, thisKernel(h.Proc, h.Sys).preempt())
	return r
}

// errDied is a child that ended by itself.
var errDied = errors.New("the child ended")

// child tries return probes and measures.
func (r *Report) child(ctx context.Context, h Host) Result {
	result := Result{Name: UretprobeSeccomp}
	unknown := func(err error) Result {
		if ctx.Err() != nil {
			err = fmt.Errorf("no answer within %s", patience)
		}
		result.State, result.Detail = Unknown, "could not be tried: "+firstLine(err)
		result.Remedy = "run spile-agent doctor when the machine is less busy; if programs die of SIGSYS, update the kernel"
		return result
	}
	if isChild() {
		return unknown(errors.New("this is the child of such a test"))
	}
	p, err := newProbes()
	if err != nil {
		return unknown(err)
	}
	defer p.close()
	c, err := startChild(ctx, h.Child)
	if err != nil {
		return unknown(err)
	}
	err = r.measure(c, p)
	if err == nil {
		err = filtered(c, p, h.Kills)
	}
	p.detach()
	died := c.end()
	switch signal := died.Signal(); {
	case err == nil:
		result.State, result.Detail = Passed, "a return probe in a program with a seccomp filter harms nothing"
	case ctx.Err() == nil && errors.Is(err, errDied) && died.Signaled() && isProbeDeath(signal):
		result.State = Refused
		result.Detail = fmt.Sprintf("Linux %s kills programs that have a seccomp filter where a return probe is attached (a test program "+
			"died of %s): the TLS libraries in C are not probed, Go programs are", release(), unix.SignalName(signal))
		result.Remedy = "use Linux 6.14, 6.13.3, 6.12.14 or later, or a kernel with the fix \"seccomp: passthrough uretprobe systemcall without filtering\""
	default:
		return unknown(err)
	}
	return result
}

// isProbeDeath reports whether a return probe may be the cause: seccomp that kills, or refuses, the system call with which
// the function returns.
func isProbeDeath(s syscall.Signal) bool {
	return slices.Contains([]syscall.Signal{unix.SIGSYS, unix.SIGILL, unix.SIGTRAP, unix.SIGSEGV, unix.SIGBUS}, s)
}

const (
	loops = 25 // of which the median counts
	hits  = 40 // in each
)

// measure puts probes into the child and has it run into them.
func (r *Report) measure(c *child, p *probes) error {
	pushedAt, steppedAt := places()
	offsets := make([]uint64, 2)
	for i, at := range []uintptr{pushedAt, steppedAt} {
		var err error
		if offsets[i], err = fileOffset(at); err != nil {
			return err
		}
	}
	none, err := c.medianNs("pushed")
	if err != nil {
		return err
	}
	if err := p.attach(false, c.pid, offsets...); err != nil {
		return err
	}
	push, err := c.medianNs("pushed")
	if err != nil {
		return err
	}
	step, err := c.medianNs("stepped")
	if err != nil {
		return err
	}
	if err := p.attach(true, c.pid, offsets[0]); err != nil {
		return err
	}
	both, err := c.medianNs("pushed")
	if err != nil {
		return err
	}
	entries, returns, err := p.hits()
	if err != nil {
		return err
	}
	if want := uint64((1 + loops) * hits); entries != 3*want || returns != want {
		return fmt.Errorf("the kernel told of %d entries and %d returns, not of %d and %d", entries, returns, 3*want, want)
	}
	// Noise may make a difference of nothing.
	r.Costs = Costs{EmulatedNs: max(push-none, 1), SingleStepNs: max(step-none, 1), ReturnNs: max(both-push, 1), Measured: true}
	return nil
}

// filtered has the child return through a return probe under a seccomp filter.
func filtered(c *child, p *probes, kills []int) error {
	order := "filter"
	for _, nr := range kills {
		order += " " + strconv.Itoa(nr)
	}
	if _, err := c.ask(order); err != nil {
		return err
	}
	_, before, err := p.hits()
	if err != nil {
		return err
	}
	if _, err := c.ask("run pushed 1"); err != nil {
		return err
	}
	if _, after, err := p.hits(); err != nil || after != before+1 {
		return errors.Join(err, errors.New("the kernel did not tell of the return"))
	}
	return nil
}

// child is the program that the probes are tried on.
type child struct {
	*exec.Cmd
	pid     int
	in      io.WriteCloser
	answers *bufio.Scanner
}

func startChild(ctx context.Context, command []string) (*child, error) {
	c := &child{Cmd: exec.CommandContext(ctx, command[0], command[1:]...)}
	c.Env = []string{asChild + "=1", "GODEBUG=asyncpreemptoff=1", "GOGC=off", "GOMAXPROCS=1"}
	in, err := c.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := c.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.Start(); err != nil {
		return nil, fmt.Errorf("start a test program: %w", err)
	}
	c.pid, c.in, c.answers = c.Process.Pid, in, bufio.NewScanner(out)
	if got, err := c.answer(); err != nil || got != "ready" {
		c.end()
		return nil, fmt.Errorf("start a test program: it says %q: %w", got, cmp.Or(err, errors.New("not what was asked")))
	}
	return c, nil
}

func (c *child) ask(order string) (string, error) {
	if _, err := fmt.Fprintln(c.in, order); err != nil {
		return "", errDied
	}
	return c.answer()
}

func (c *child) answer() (string, error) {
	if !c.answers.Scan() {
		return "", errDied
	}
	return c.answers.Text(), nil
}

// medianNs is what one call of a function takes.
func (c *child) medianNs(function string) (float64, error) {
	var times []float64
	for i := range 1 + loops {
		answer, err := c.ask("run " + function + " " + strconv.Itoa(hits))
		if err != nil {
			return 0, err
		}
		ns, err := strconv.ParseFloat(answer, 64)
		if err != nil {
			return 0, fmt.Errorf("the test program says %q", answer)
		}
		if i > 0 { // the first warms up
			times = append(times, ns/hits)
		}
	}
	slices.Sort(times)
	return times[loops/2], nil
}

// end lets the child go and says how it ended.
func (c *child) end() syscall.WaitStatus {
	c.in.Close()
	_ = c.Wait() // how it ended is in the state
	status, _ := c.ProcessState.Sys().(syscall.WaitStatus)
	return status
}

func release() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "of unknown release"
	}
	return unix.ByteSliceToString(u.Release[:])
}

// fileOffset finds where in this executable's file the code at an address is.
func fileOffset(address uintptr) (uint64, error) {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return 0, fmt.Errorf("find the test function: %w", err)
	}
	for line := range strings.Lines(string(maps)) {
		var start, end uintptr
		var access string
		var offset uint64
		if n, _ := fmt.Sscanf(line, "%x-%x %s %x", &start, &end, &access, &offset); n == 4 && address >= start && address < end {
			return uint64(address-start) + offset, nil
		}
	}
	return 0, fmt.Errorf("find the test function: nothing is mapped at %#x (%s)", address, runtime.GOARCH)
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}
