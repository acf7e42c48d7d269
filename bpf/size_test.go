package bpf

import "testing"

// The verifier gives up at a million instructions. A margin is kept, since older ones look at more: 6.1 at 316,755 where
// 6.18 looks at 185,722.
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
			if n > 400_000 {
				t.Errorf("%s: %d instructions verified, want at most 400000", name, n)
			}
		}
	})
}
