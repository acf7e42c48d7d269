package call

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	v1 "github.com/spile/spile/proto/spile/v1"
)

// A call that is made of an earlier one's memory is the call that would be made anew: nothing of the earlier one is in it.
func TestPooledCallsAreAsNew(t *testing.T) {
	long := `{"items":[` + strings.TrimSuffix(strings.Repeat(`{"id":1,"name":"a"},`, 5), ",") + `],"email":"joe@example.com"`
	for i := range 30 {
		long += fmt.Sprintf(`,"field%d":%d`, i, i)
	}
	long += "}"
	config := Config{Key: make([]byte, 32), KeyEpoch: 1, Node: "n1"}
	anew := New(config)
	pooled := New(config)
	for round := range 3 {
		for i, c := range []struct{ method, target, header, body, answerHeader, answer string }{
			{"GET", "/users/42/orders/7?page=2&size=10", "host: shop.example\ncookie: sid=0123456789abcdef; theme=dark\nauthorization: Basic am9lOnNlY3JldA==", "", "content-type: application/json\nset-cookie: a=b; Path=/\ncache-control: no-store", long},
			{"POST", "/login", "host: shop.example:8443\ncontent-type: application/x-www-form-urlencoded", "user=joe&password=geheim12", "", ""},
			{"GET", "/", "", "", "content-type: text/html", "<p>"},
			{"PUT", "/users/43", "content-type: application/json\nx-api-key: 0123456789abcdef0123", `{"name":"b"}`, "content-type: application/json", `[]`},
		} {
			x := exchange(c.method, c.target, c.header, c.body, 200+i, c.answerHeader, c.answer)
			want, got := anew.Describe(Context{Boot: "b", Client: i%2 == 0}, x), pooled.Describe(Context{Boot: "b", Client: i%2 == 0}, x)
			if !proto.Equal(want, got) {
				t.Fatalf("round %d: made of an earlier call\n%v\nanew\n%v", round, got, want)
			}
			got.Source.Address, got.Source.Coverage, got.Route, got.Tls = "192.0.2.1", proto.Float64(1), "/x", &v1.Tls{Version: "1.3"}
			if round == 1 {
				got.Source, got.Response, got.Duration = nil, nil, nil // join may have given these away
			}
			pooled.Reuse(got)
		}
	}
}

func TestPoolIsBounded(t *testing.T) {
	d := describer(t)
	for range 3 * pooledCalls {
		d.Reuse(&v1.Call{})
	}
	if len(d.spare) != pooledCalls {
		t.Errorf("%d calls are kept", len(d.spare))
	}
}

// What is remembered between calls are names that may be told, never a value.
func TestMemoriesHoldNoValues(t *testing.T) {
	const secret = "sk_live_4eC39HqLyjWDarjtT1zdp7dc"
	d := describer(t)
	d.Describe(Context{}, exchange("GET", "/a/"+secret+"/b?"+secret+"="+secret, "host: "+secret+".example\n"+strings.ToLower(secret)+": x\ncontent-type: "+secret+"/"+secret, "", 200,
		"content-type: application/json", `{"`+secret+`":{"x":"`+secret+`"}}`))
	var kept []string
	for _, p := range []plain{d.hosts, d.types, d.names, d.tree.plain, d.tree.paths} {
		for k := range p.texts {
			kept = append(kept, k)
		}
	}
	for k := range d.kinds.words {
		kept = append(kept, k)
	}
	for _, row := range d.heads.rows {
		if row != nil {
			kept = append(kept, row.raw...)
			kept = append(kept, row.names...)
		}
	}
	for _, row := range d.shapes.rows {
		if row != nil {
			for _, f := range row.fields {
				kept = append(kept, f.path)
			}
		}
	}
	if len(kept) < 5 {
		t.Errorf("only %q are kept", kept)
	}
	for _, k := range kept {
		if strings.Contains(strings.ToLower(k), strings.ToLower(secret[8:])) {
			t.Errorf("kept %q", k)
		}
	}
}

// A full memory begins anew.
func TestMemoriesAreBounded(t *testing.T) {
	var p plain
	var k kinds
	for i := range 3 * maxPlain {
		word := "w" + strings.Map(func(r rune) rune { return r - '0' + 'a' }, fmt.Sprint(i))
		if p.get(word, asIs) != word || !k.of(word).IsName() {
			t.Fatal(word)
		}
		if len(p.texts) > maxPlain || len(k.words) > maxPlain {
			t.Fatalf("%d and %d texts", len(p.texts), len(k.words))
		}
	}
}
