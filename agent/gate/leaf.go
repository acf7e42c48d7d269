package gate

// The functions that get probes, in assembly: the compiler would choose their first instruction. They use no stack of
// Go's that could move.

// pushed begins with an instruction that the kernel emulates under a probe.
func pushed()

// stepped begins with one that it single-steps: test, which no kernel emulates so far (Linux 7.3 does emulate mov).
func stepped()

// places returns where the two begin. A func value would lead to the compiler's wrapper.
func places() (pushed, stepped uintptr)
