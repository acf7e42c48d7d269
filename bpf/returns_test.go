package bpf

import (
	"slices"
	"testing"
)

func TestStaleReturns(t *testing.T) {
	list := "p:kprobes/other tcp_sendmsg\nr4096:spile_1a2b/tcp_recvmsg tcp_recvmsg\nr10:spiles/x y\np:ebpf_1/z z\n\nr4096:spile_3c/tcp_sendmsg tcp_sendmsg"
	if got, want := staleReturns(list), []string{"spile_1a2b/tcp_recvmsg", "spile_3c/tcp_sendmsg"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
