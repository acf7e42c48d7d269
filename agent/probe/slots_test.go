package probe

import (
	"sync"
	"testing"
	"time"

	"github.com/spile/spile/agent/target"
)

// kernel is a counter that the test turns.
type kernel struct {
	mu              sync.Mutex
	hits            [lastSlot + 1]uint64
	agree, disagree [lastSlot + 1]uint64
	err             error
}

func (k *kernel) Hits(slots []uint32) ([]uint64, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	sums := make([]uint64, len(slots))
	for i, n := range slots {
		sums[i] = k.hits[n]
	}
	return sums, k.err
}

func (k *kernel) ForgetCalls([]uint32) error { return nil }

func (k *kernel) SiteChecks(slots []uint32) (agree, disagree []uint64, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, n := range slots {
		agree, disagree = append(agree, k.agree[n]), append(disagree, k.disagree[n])
	}
	return agree, disagree, k.err
}

func (k *kernel) hit(slot uint32, n uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.hits[slot] += n
}

func (k *kernel) check(slot uint32, agree, disagree uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.agree[slot] += agree
	k.disagree[slot] += disagree
}

func TestSlotsAreSharedThenFreedAfterTheirLastHits(t *testing.T) {
	k := &kernel{}
	s := newSlots(k)
	a := Placed{ID: target.Identity{Ino: 1}, Program: "ssl_read_enter", Class: target.Emulated}
	b := Placed{ID: target.Identity{Ino: 2}, Program: "ssl_read_enter", Class: target.Emulated}
	first, second, other := s.take(a), s.take(a), s.take(b)
	if first == 0 || first != second || other == first || other == 0 {
		t.Fatalf("slots %d, %d, %d", first, second, other)
	}
	s.give([]uint32{first})
	if s.hasUnused() {
		t.Error("freed while it is in use")
	}
	k.hit(first, 7)
	s.give([]uint32{second})
	k.hit(first, 2) // of calls that were running
	if !s.hasUnused() || s.count() != nil || s.hasUnused() {
		t.Error("not freed")
	}
	if n, _ := s.figures(a.ID); n != 9 {
		t.Errorf("%d hits, want 9", n)
	}
	// Who crashed a moment after the file was detached is asked about.
	if p, ok := s.placed(first); !ok || p != a {
		t.Errorf("slot %d stands for %+v", first, p)
	}
	again := s.take(a)
	k.hit(again, 4)
	if s.count(); again == first {
		t.Error("used again at once")
	}
	if n, _ := s.figures(a.ID); n != 13 {
		t.Errorf("%d hits over two attachments, want 13", n)
	}
}

func TestSlotsRunOut(t *testing.T) {
	s := newSlots(&kernel{})
	for i := range lastSlot {
		if s.take(Placed{ID: target.Identity{Ino: uint64(i)}, Program: "p"}) == 0 {
			t.Fatalf("none after %d", i)
		}
	}
	one := Placed{ID: target.Identity{Ino: 1 << 40}, Program: "p"}
	if n := s.take(one); n != 0 {
		t.Errorf("slot %d of none", n)
	}
	s.give([]uint32{0, 17})
	s.count()
	if n := s.take(one); n != 17 {
		t.Errorf("slot %d, want the one that was freed", n)
	}
	if p, ok := s.placed(0); ok {
		t.Errorf("slot 0 stands for %+v", p)
	}
	if _, ok := s.placed(1 << 31); ok {
		t.Error("a slot beyond the last stands for something")
	}
}

func TestEachHitIsPricedOnce(t *testing.T) {
	k := &kernel{}
	r := registryOf(t, Config{Programs: nobody{}, Counters: k, Times: DefaultTimes()})
	closeAtEnd(t, r)
	id := target.Identity{Ino: 1}
	cheap := r.slots.take(Placed{ID: id, Program: "a", Class: target.Emulated})
	exit := r.slots.take(Placed{ID: id, Program: "b", Class: target.Emulated, AtExit: true})
	dear := r.slots.take(Placed{ID: target.Identity{Ino: 2}, Program: "a", Class: target.SingleStep})
	price := func(c target.Class, atExit bool) float64 {
		switch {
		case atExit:
			return 10
		case c == target.Emulated:
			return 100
		}
		return 1000
	}
	k.hit(cheap, 5)
	k.hit(exit, 5)
	k.hit(dear, 3)
	list, err := r.Costs(price)
	if err != nil || len(list) != 2 || list[0] != (Cost{target.Identity{Ino: 2}, 3, 3000}) || list[1] != (Cost{id, 10, 550}) {
		t.Fatalf("%+v, %v", list, err)
	}
	k.hit(cheap, 1)
	if list, _ = r.Costs(func(target.Class, bool) float64 { return 1 }); list[1] != (Cost{id, 11, 551}) {
		t.Errorf("%+v: what was priced is priced again", list)
	}
	if hits, cost := r.slots.figures(id); hits != 11 || cost != 551*time.Nanosecond {
		t.Errorf("%d hits, %v", hits, cost)
	}
}
