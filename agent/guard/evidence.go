package guard

import (
	"fmt"
	"slices"
)

// strength is how much a single crash says against the probes.
type strength uint8

const (
	none    strength = iota
	weak             // three of them lead to a trial
	strong           // one leads to a trial
	certain          // one is enough
)

// evidence weighs one crash, most certain first. Certain is only what lies at an instruction of ours: a program has
// breakpoints of its own (g_error of GLib, an assertion, brk on arm64), and other tools have probes.
func (g *Guard) evidence(c Crash) (strength, string) {
	name := signalName(c.Signal)
	switch {
	case sent(c):
		return none, name + " was sent by another process"
	case c.Seen && c.Signal == sigSYS && c.Code == bySeccomp && slices.Contains(g.probeSyscalls, c.Syscall):
		why := fmt.Sprintf("its seccomp filter killed system call %d, which the kernel makes it do for a probe (Linux 6.11; "+
			"6.12.14, 6.13.3 and 6.14 let it pass)", c.Syscall)
		return ofACall(c, why)
	case !isFault(c):
		return none, name + " is no sign of a probe"
	case c.InUprobeArea && !raised(c):
		return ofACall(c, name+" where the kernel executes probed instructions")
	case c.OnBreakpoint && !raised(c) && c.Signal == sigTRAP:
		return certain, "SIGTRAP at a breakpoint that lies where a probe does"
	case c.AtSite && !raised(c) && (c.Signal == sigILL || c.Signal == sigTRAP):
		return certain, name + " at the probed instruction"
	case c.Signal == sigTRAP && c.Seen && c.BySelf && c.InCall: // not seen, it may be another thread that was in a call
		return strong, "it sent itself SIGTRAP inside a probed call: it may have found a probe's breakpoint in its code"
	case c.Signal == sigTRAP && c.InCall:
		return weak, "SIGTRAP inside a probed call, but not at a probe"
	case (c.AtSite || c.Behind) && !raised(c):
		// A call with a bad pointer fails there as well.
		return strong, name + " right behind the probed instruction"
	case c.InCall:
		return weak, name + " inside a probed call"
	}
	return none, name + " outside of any probed call"
}

// ofACall weighs what is the doing of a probe, but of whose: other tools probe as well. In a call that a probe of ours saw
// begin it is ours.
func ofACall(c Crash, why string) (strength, string) {
	if c.InCall {
		return certain, why
	}
	return strong, why + "; it was in no probed call, so that it may have been a probe of another tool"
}

// isFault reports whether a probe that went wrong could show as this signal. SIGABRT is what abort(3) sends when a
// program finds its own state wrong, and SIGFPE is arithmetic. SIGSYS names its system call where its delivery was seen.
func isFault(c Crash) bool {
	switch c.Signal {
	case sigILL, sigTRAP, sigBUS, sigSEGV:
		return true
	}
	return c.Signal == sigSYS && !c.Seen
}

// raised reports whether the signal was sent, not caused by an instruction: then the place where it arrived says nothing.
func raised(c Crash) bool { return !c.Seen || c.Code <= 0 }

// sent reports whether another process sent the signal. What a process sends itself is a program that found something
// wrong, or a handler that wants the default action.
func sent(c Crash) bool { return c.Seen && c.Code <= 0 && !c.BySelf }

func signalName(n int) string {
	switch n {
	case sigILL:
		return "SIGILL"
	case sigTRAP:
		return "SIGTRAP"
	case 6:
		return "SIGABRT"
	case sigBUS:
		return "SIGBUS"
	case 8:
		return "SIGFPE"
	case sigSEGV:
		return "SIGSEGV"
	case sigSYS:
		return "SIGSYS"
	}
	return fmt.Sprintf("signal %d", n)
}
