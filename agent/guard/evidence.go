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

// evidence weighs one crash, most certain first.
func (g *Guard) evidence(c Crash) (strength, string) {
	name := signalName(c.Signal)
	switch {
	case sent(c):
		return none, name + " was sent by a process, not by a fault"
	case c.Signal == sigSYS && c.Code == bySeccomp && slices.Contains(g.probeSyscalls, c.Syscall):
		return certain, fmt.Sprintf("its seccomp filter killed system call %d, which the kernel makes it do for a probe (Linux 6.11; "+
			"6.12.14, 6.13.3 and 6.14 let it pass)", c.Syscall)
	case !isFault(c.Signal):
		return none, name + " is no sign of a probe"
	case c.InUprobeArea && c.Code != byThread:
		return certain, name + " where the kernel executes probed instructions"
	case c.AtSite && c.Code != byThread && (c.Signal == sigILL || c.Signal == sigTRAP):
		return certain, name + " at the probed instruction"
	case c.Signal == sigTRAP && c.InCall:
		return certain, "SIGTRAP inside a probed call: a breakpoint there is a probe's, or the program found one in its code"
	case c.AtSite && c.Code != byThread:
		// A call with a bad pointer fails there as well.
		return strong, name + " right behind the probed instruction"
	case c.InCall:
		return weak, name + " inside a probed call"
	}
	return none, name + " outside of any probed call"
}

// isFault reports whether a probe that went wrong could show as this signal. SIGABRT is what abort(3) sends when a
// program finds its own state wrong, and SIGFPE is arithmetic.
func isFault(signal int) bool {
	return signal == sigILL || signal == sigTRAP || signal == sigBUS || signal == sigSEGV
}

// sent reports whether a process sent the signal by kill(2) or sigqueue(3). A thread that signals itself does it by
// tgkill(2): a handler that wants the default action, or a program that found something wrong.
func sent(c Crash) bool { return c.Code == byUser || c.Code == byQueue }

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
