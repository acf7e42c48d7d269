package gate

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Verb is the argument with which the executable is started as the child.
const Verb = "gate-child"

// asChild is in the environment of a child, which must not have children of its own.
const asChild = "SPILE_GATE_CHILD"

// Child does what Test asks for on in, and answers on out, until in ends. It must be called early in main, in the main
// thread: before Linux 6.10 a uprobe_multi link for one process fires in that thread only.
//
//	run FUNCTION N   calls it N times, and says how many nanoseconds of processor time that took
//	filter N...      has seccomp kill these system calls of this thread
func Child(in io.Reader, out io.Writer) error {
	runtime.LockOSThread()
	debug.SetGCPercent(-1) // the collector would walk over the return address that a return probe replaces
	// A death that was asked for needs no core dump. What the limit was before does not matter here.
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	if _, err := fmt.Fprintln(out, "ready"); err != nil {
		return err
	}
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		answer, err := obey(strings.Fields(lines.Text()))
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintln(out, answer); err != nil {
			return err
		}
	}
	return lines.Err()
}

func obey(words []string) (string, error) {
	var numbers []int
	functions := map[string]func(){"pushed": pushed, "stepped": stepped}
	if len(words) == 3 && words[0] == "run" && functions[words[1]] != nil {
		n, err := strconv.Atoi(words[2])
		return strconv.FormatInt(hit(functions[words[1]], n).Nanoseconds(), 10), err
	}
	if len(words) == 0 || words[0] != "filter" {
		return "", fmt.Errorf("what is %q?", words)
	}
	for _, word := range words[1:] {
		n, err := strconv.Atoi(word)
		if err != nil {
			return "", err
		}
		numbers = append(numbers, n)
	}
	return "filtered", filter(numbers)
}

// hit says how much processor time that took: on a busy host a loop is interrupted, and what others run is no cost of ours.
func hit(function func(), n int) time.Duration {
	start := threadTime()
	for range n {
		function()
	}
	return threadTime() - start
}

func threadTime() time.Duration {
	var t unix.Timespec
	// It cannot fail: the clock is older than BPF.
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t)
	return time.Duration(t.Nano())
}

// filter has seccomp kill this process at any of these system calls (seccomp(2)).
func filter(numbers []int) error {
	const load, equal, end = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_RET | unix.BPF_K
	program := []unix.SockFilter{{Code: load, K: 0}} // struct seccomp_data.nr
	for i, nr := range numbers {
		program = append(program, unix.SockFilter{Code: equal, Jt: uint8(len(numbers) - i), K: uint32(nr)})
	}
	program = append(program,
		unix.SockFilter{Code: end, K: unix.SECCOMP_RET_ALLOW}, unix.SockFilter{Code: end, K: unix.SECCOMP_RET_KILL_PROCESS})
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("give up new privileges: %w", err)
	}
	all := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&all)), 0, 0); err != nil {
		return fmt.Errorf("install a seccomp filter: %w", err)
	}
	return nil
}

// ProbeSyscalls are the system calls that the kernel makes a probed program do: uretprobe (Linux 6.11) and uprobe (6.18).
// Only x86-64 has them.
func ProbeSyscalls() []int {
	if runtime.GOARCH == "amd64" {
		return []int{335, 336}
	}
	return nil
}

// isChild says that this process is a child already.
func isChild() bool { return os.Getenv(asChild) != "" }
