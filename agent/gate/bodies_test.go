package gate

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// made is a kernel that runs programs so often and so long between two looks.
func made(runs uint64, total time.Duration) func() (uint64, time.Duration, error) {
	looks := uint64(0)
	return func() (uint64, time.Duration, error) {
		looks++
		return 1000 + looks*runs, time.Hour + time.Duration(looks)*total, nil
	}
}

func TestBodies(t *testing.T) {
	stopped := 0
	enable := func() (func(), error) { return func() { stopped++ }, nil }
	b := &Bodies{Entries: &Body{ns: typicalEntryNs, stats: made(100, 30*time.Microsecond)}, Returns: &Body{ns: typicalReturnNs, stats: made(0, 0)}, enable: enable}
	if err := b.look(t.Context(), time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if b.Entries.Ns() != 300 || b.Returns.Ns() != typicalReturnNs {
		t.Errorf("entries %v ns, returns %v ns", b.Entries.Ns(), b.Returns.Ns())
	}
	if stopped != 1 {
		t.Errorf("the kernel was told to stop %d times", stopped)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Run(ended); err != nil {
		t.Errorf("asked to end: %v", err)
	}
	b.enable = func() (func(), error) { return nil, unix.EPERM }
	if err := b.look(t.Context(), time.Millisecond); !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "CAP_SYS_ADMIN") {
		t.Errorf("refused: %v", err)
	}
}

// A program that the kernel runs is measured by the kernel.
func TestBodiesOfThisKernel(t *testing.T) {
	requireRoot(t)
	p, err := newProbes()
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	c, err := startChild(t.Context(), ThisHost().Child)
	if err != nil {
		t.Fatal(err)
	}
	defer c.end()
	at, _ := places()
	offset, err := fileOffset(at)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.attach(false, c.pid, offset); err != nil {
		t.Fatal(err)
	}
	b := NewBodies([]string{"enter", "enter", "nobody"}, []string{"exit"}, func(name string) *ebpf.Program {
		return map[string]*ebpf.Program{"enter": p.enter, "exit": p.exit}[name]
	})
	answered := make(chan error)
	go func() {
		_, err := c.ask("run pushed 100000")
		answered <- err
	}()
	if err := b.look(t.Context(), 20*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if err := <-answered; err != nil {
		t.Fatal(err)
	}
	if got := b.Entries.Ns(); got == typicalEntryNs || got <= 0 || got > 1e5 {
		t.Errorf("a program that counts runs %v ns", got)
	}
	t.Logf("a program that counts runs %.0f ns", b.Entries.Ns())
}
