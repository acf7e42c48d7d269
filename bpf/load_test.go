package bpf

import (
	"errors"
	"fmt"
	"testing"

	"github.com/cilium/ebpf"
)

func TestLoad(t *testing.T) {
	o, err := Load(Options{})
	if err != nil {
		var v *ebpf.VerifierError
		if errors.As(err, &v) {
			s := fmt.Sprintf("%+v", v)
			if len(s) > 6000 {
				s = s[len(s)-6000:]
			}
			t.Log(s)
		}
		t.Fatal(err)
	}
	t.Log(o.Rungs())
	ps, err := o.Processes()
	t.Log(len(ps), err)
	o.Close()
}
