package main

import (
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

const (
	// goMemoryBytes is what the runtime may take before it collects harder: 1,000 connections have some 6 MiB alive, and
	// every call leaves 0.5 KiB of garbage. Files and the rings' views are 10 to 15 MiB of the 40 that a node is promised.
	goMemoryBytes = 25 << 20
	// fixedBytes is what the runtime takes beside the heap: stacks, and its own tables.
	fixedBytes = 5 << 20
	// gcPercent lets goMemoryBytes decide where little is alive.
	gcPercent = 400
)

// memory keeps the garbage collector to goMemoryBytes, and where more is alive to half as much again: a limit that stayed
// would have it collect all the time. A GOGC or GOMEMLIMIT in the environment is left alone.
type memory struct {
	left  bool
	limit int64
	live  []metrics.Sample
}

func newMemory() *memory {
	_, percent := os.LookupEnv("GOGC")
	_, limit := os.LookupEnv("GOMEMLIMIT")
	return &memory{left: percent || limit, live: []metrics.Sample{{Name: "/gc/heap/live:bytes"}}}
}

// release gives back what was only needed to start: parsing the kernel's types takes several times what the agent has
// alive afterwards.
func (m *memory) release() {
	debug.FreeOSMemory()
	if !m.left {
		debug.SetGCPercent(gcPercent)
	}
	m.keep()
}

// processors lets as many threads run as the budget of the agent grants. One more than are needed costs a tenth of the
// agent's time under load: they wake each other for work that the first would have done.
func processors(budget float64) {
	if _, set := os.LookupEnv("GOMAXPROCS"); !set && budget > 0 {
		runtime.GOMAXPROCS(min(runtime.NumCPU(), max(1, int(math.Ceil(budget)))))
	}
}

// keep looks at what is alive. It is to be called now and then.
func (m *memory) keep() {
	if m.left {
		return
	}
	metrics.Read(m.live)
	// Setting it stops the program for some microseconds, so it is not done for a little.
	if want := memoryLimit(m.live[0].Value.Uint64()); want < m.limit/8*7 || want > m.limit {
		m.limit = want
		debug.SetMemoryLimit(want)
	}
}

// memoryLimit is what the runtime may take where that much is alive.
func memoryLimit(live uint64) int64 {
	return max(goMemoryBytes, int64(min(live, math.MaxInt64/2)/2*3)+fixedBytes)
}
