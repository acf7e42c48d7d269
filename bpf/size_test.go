package bpf

import "testing"

// The verifier of the oldest kernels gives up at a million instructions; a margin is kept.
func TestVerifierMargin(t *testing.T) {
	eachRung(t, func(t *testing.T, rung string) {
		o := load(t, Options{SocketRung: rung})
		for name, p := range o.programs {
			info, err := p.Info()
			if err != nil {
				t.Fatal(err)
			}
			n, ok := info.VerifiedInstructions()
			if !ok {
				t.Skip("the kernel does not count what it verifies (Linux 5.16)")
			}
			t.Logf("%s: %d instructions", name, n)
			if n > 250_000 {
				t.Errorf("%s: %d instructions verified, want at most 250000", name, n)
			}
		}
	})
}
