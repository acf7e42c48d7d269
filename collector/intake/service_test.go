package intake

import (
	"fmt"
	"strings"
	"testing"

	v1 "github.com/spile/spile/proto/spile/v1"
)

func TestService(t *testing.T) {
	nginx := &v1.Peer{Address: "10.0.0.9", Port: 8443, Process: "nginx"}
	long := strings.Repeat("a", 300)
	for _, c := range []struct {
		call *v1.Call
		want string
	}{
		{&v1.Call{Authority: "shop.example:8443", Destination: nginx}, "shop.example"},
		{&v1.Call{Authority: "Shop.EXAMPLE."}, "shop.example"},
		{&v1.Call{Authority: "user@shop.example:1"}, "shop.example"},
		{&v1.Call{Authority: "[2001:DB8::0:1]:443"}, "2001:db8::1"},
		{&v1.Call{Authority: "2001:db8::1"}, "2001:db8::1"},
		{&v1.Call{Authority: "127.0.0.1:8080"}, "127.0.0.1"},
		{&v1.Call{Authority: "{email}.shop.example"}, "{email}.shop.example"},
		{&v1.Call{Authority: "_dmarc.a-b.example"}, "_dmarc.a-b.example"},
		{&v1.Call{Authority: "<script>", Tls: &v1.Tls{Sni: "SNI.example"}}, "sni.example"},
		{&v1.Call{Authority: "a b", Destination: nginx}, "nginx:8443"},
		{&v1.Call{Authority: "[x]:1", Destination: nginx}, "nginx:8443"},
		{&v1.Call{Authority: "é.example", Destination: nginx}, "nginx:8443"},
		{&v1.Call{Authority: long, Destination: nginx}, "nginx:8443"},
		{&v1.Call{Authority: ":443", Destination: nginx}, "nginx:8443"},
		{&v1.Call{Authority: "\x1b[31m", Destination: &v1.Peer{Process: "my app\n", Port: 1}}, "my_app_:1"},
		{&v1.Call{Destination: &v1.Peer{Process: long, Port: 65535}}, long[:maxServiceBytes-6] + ":65535"},
		{&v1.Call{Destination: &v1.Peer{Address: "10.0.0.9", Port: 80}}, "10.0.0.9:80"},
		{&v1.Call{Destination: &v1.Peer{Address: "::1", Port: 80}}, "[::1]:80"},
		{&v1.Call{Destination: &v1.Peer{Address: "10.0.0.9"}}, "10.0.0.9"},
		{&v1.Call{Destination: &v1.Peer{Address: "what", Port: 5}}, "unknown"},
		{&v1.Call{}, "unknown"},
		{nil, "unknown"},
	} {
		if got := Service(c.call); got != c.want {
			t.Errorf("%v is of service %q, want %q", c.call, got, c.want)
		}
	}
}

// These values are on disk in every install; they never change.
func TestPartitionIsFixed(t *testing.T) {
	seen := map[int]bool{}
	for service, want := range map[string]int{"shop.example": 33, "": 37, "nginx:8443": 2} {
		if got := Partition(service); got != want {
			t.Errorf("%q is in partition %d, want %d", service, got, want)
		}
	}
	for i := range 1000 {
		seen[Partition(fmt.Sprintf("team-%d.shop.example", i))] = true
	}
	if len(seen) != Partitions {
		t.Errorf("1,000 services meet in %d partitions", len(seen))
	}
}

func FuzzService(f *testing.F) {
	f.Add("shop.example:8443", "sni", "nginx", "10.0.0.1", uint32(80))
	f.Fuzz(func(t *testing.T, authority, sni, process, address string, port uint32) {
		got := Service(&v1.Call{Authority: authority, Tls: &v1.Tls{Sni: sni}, Destination: &v1.Peer{Process: process, Address: address, Port: port}})
		if got == "" || len(got) > maxServiceBytes+5 || strings.ContainsFunc(got, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
			t.Errorf("service %q", got)
		}
	})
}
