// Command floor attaches the least that a capture by uprobes can be, for `make bench` to hold Spile against.
//
//	floor PID FILE openssl|go entry|inner nothing|copy
//
// At "entry" the probes lie on the first instruction of the functions that a program calls, at "inner" on the first
// instruction behind it that the kernel emulates and that every call passes. The programs do nothing, or copy: what a read
// or write moved, up to 16 KiB, into a ring that a goroutine empties every 10 ms, counting records and nothing else.
// Only process PID is probed. It prints "ready", and for each line of its input what it has counted until then: records,
// lost records, bytes. It ends with its input.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/cilium/ebpf/rlimit"
)

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "floor:", err)
		os.Exit(1)
	}
}

func run(args []string, stdin io.Reader, stdout io.Writer) error {
	if len(args) != 5 {
		return errors.New("usage: floor PID FILE openssl|go entry|inner nothing|copy")
	}
	pid, err := strconv.ParseUint(args[0], 10, 32)
	if err != nil {
		return fmt.Errorf("read the process id: %w", err)
	}
	probes, err := find(args[1], args[2], args[3] == "inner")
	if err != nil {
		return err
	}
	// Needed where the kernel charges maps to the process's locked memory (before Linux 5.11).
	if err := rlimit.RemoveMemlock(); err != nil {
		return fmt.Errorf("lift the limit of locked memory: %w", err)
	}
	var tap *capture
	if args[4] == "copy" {
		if tap, err = newCapture(); err != nil {
			return err
		}
		defer tap.close()
	}
	exe, err := link.OpenExecutable(args[1])
	if err != nil {
		return fmt.Errorf("open %s: %w", args[1], err)
	}
	for _, p := range probes {
		code := asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}
		if tap != nil {
			code = tap.program(p)
		}
		detach, err := attach(exe, code, p, int(pid))
		if err != nil {
			return fmt.Errorf("attach at offset %#x: %w", p.offset, err)
		}
		defer detach()
	}
	fmt.Fprintln(stdout, "ready")
	asked := lines(stdin)
	if tap == nil {
		for range asked {
			fmt.Fprintln(stdout, 0, 0, 0)
		}
		return nil
	}
	return tap.count(asked, stdout)
}

// lines tells of each line of input, and of its end.
func lines(in io.Reader) <-chan struct{} {
	out := make(chan struct{})
	go func() {
		defer close(out)
		for s := bufio.NewScanner(in); s.Scan(); {
			out <- struct{}{}
		}
	}()
	return out
}

func attach(exe *link.Executable, code asm.Instructions, p probe, pid int) (detach func(), err error) {
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.Kprobe, AttachType: ebpf.AttachTraceUprobeMulti, License: "Dual BSD/GPL", Instructions: code,
	})
	if err != nil {
		return nil, err
	}
	options := &link.UprobeMultiOptions{Addresses: []uint64{p.offset}, PID: uint32(pid)}
	to := exe.UprobeMulti
	if p.ofReturn {
		to = exe.UretprobeMulti
	}
	l, err := to(nil, program, options)
	if err != nil {
		program.Close()
		return nil, err
	}
	return func() { l.Close(); program.Close() }, nil
}

// capture is where copies go.
type capture struct {
	ring, calls, lost *ebpf.Map
}

func newCapture() (_ *capture, err error) {
	c := &capture{}
	for _, m := range []struct {
		to   **ebpf.Map
		spec ebpf.MapSpec
	}{
		{&c.ring, ebpf.MapSpec{Type: ebpf.RingBuf, MaxEntries: 16 << 20}},
		{&c.calls, ebpf.MapSpec{Type: ebpf.Hash, KeySize: 8, ValueSize: 16, MaxEntries: 1024}},
		{&c.lost, ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1}},
	} {
		if *m.to, err = ebpf.NewMap(&m.spec); err != nil {
			c.close()
			return nil, fmt.Errorf("create a map: %w", err)
		}
	}
	return c, nil
}

func (c *capture) close() {
	for _, m := range []*ebpf.Map{c.ring, c.calls, c.lost} {
		m.Close() // nil is fine
	}
}

// count empties the ring every 10 ms, and says what it has counted when asked, until nobody can ask any more.
func (c *capture) count(asked <-chan struct{}, answers io.Writer) error {
	reader, err := ringbuf.NewReader(c.ring)
	if err != nil {
		return fmt.Errorf("open the ring: %w", err)
	}
	defer reader.Close()
	reader.SetDeadline(time.Unix(1, 0)) // its own waiting is never used
	var record ringbuf.Record
	var records, lost, bytes uint64
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		answer := false
		select {
		case <-tick.C:
		case _, answer = <-asked:
			if !answer {
				return nil
			}
		}
		for reader.AvailableBytes() > 0 {
			if err := reader.ReadInto(&record); errors.Is(err, os.ErrDeadlineExceeded) {
				break
			} else if err != nil {
				return fmt.Errorf("read the ring: %w", err)
			}
			records++
			bytes += uint64(len(record.RawSample))
		}
		if answer {
			if err := c.lost.Lookup(uint32(0), &lost); err != nil {
				return fmt.Errorf("read the count of lost records: %w", err)
			}
			fmt.Fprintln(answers, records, lost, bytes)
		}
	}
}
