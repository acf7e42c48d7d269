package main

import (
	"math"
	"runtime/debug"
	"testing"
)

func TestMemoryLimit(t *testing.T) {
	for _, c := range []struct {
		live uint64
		want int64
	}{
		{0, goMemoryBytes},
		{6 << 20, goMemoryBytes},
		{20 << 20, 30<<20 + fixedBytes},
		{1 << 30, 3<<29 + fixedBytes},
	} {
		if got := memoryLimit(c.live); got != c.want {
			t.Errorf("with %d alive the limit is %d, want %d", c.live, got, c.want)
		}
	}
	if got := memoryLimit(math.MaxUint64); got < goMemoryBytes {
		t.Errorf("the limit went over its end: %d", got)
	}
}

// The limit follows what is alive; what somebody set is left alone.
func TestMemoryKeeps(t *testing.T) {
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(-1))
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	m := newMemory()
	m.left = false
	m.release()
	if got := debug.SetMemoryLimit(-1); got != m.limit || got < goMemoryBytes {
		t.Errorf("the runtime's limit is %d, want %d", got, m.limit)
	}
	alive := make([]byte, 64<<20)
	m.release()
	if got := debug.SetMemoryLimit(-1); got < int64(len(alive)) {
		t.Errorf("the runtime's limit is %d where %d are alive", got, len(alive))
	}
	debug.SetMemoryLimit(1 << 40)
	t.Setenv("GOMEMLIMIT", "1TiB")
	newMemory().release()
	if got := debug.SetMemoryLimit(-1); got != 1<<40 {
		t.Errorf("a limit that was set became %d", got)
	}
	alive[0] = 1
}
