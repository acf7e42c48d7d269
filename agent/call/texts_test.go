package call

import (
	"fmt"
	"strings"
	"testing"

	"github.com/spile/spile/agent/parse"
	"github.com/spile/spile/agent/parse/http1"
	v1 "github.com/spile/spile/proto/spile/v1"
)

// A call keeps no piece of a message's text, which is gone when the parser has it back.
func TestCallsKeepNoTexts(t *testing.T) {
	head := "Host: Shop.example:8443\r\nAuthorization: Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiI0MiIsInNjb3BlIjoiYSBiIn0.c2lnbmF0dXJl\r\nCookie: sid=0123456789abcdef; theme=dark\r\n" +
		"X-Custom-Name: 1\r\nX-Api-Key: 0123456789abcdef\r\nContent-Type: application/Vnd.shop+json; charset=utf-8\r\nContent-Length: 7\r\n\r\n{\"a\":1}"
	answer := "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nAccess-Control-Allow-Origin: null\r\nDeprecation: true\r\nSunset: Sat, 21 Nov 2026 10:00:00 GMT\r\n" +
		"Cache-Control: no-store, max-age=17\r\nWWW-Authenticate: Basic realm=x\r\nAllow: GET\r\nX-Frame-Options: DENY\r\nX-Other: \xff\r\nSet-Cookie: a=b; Path=/\r\nContent-Length: 2\r\n\r\n{}"
	d := describer(t)
	var calls []*v1.Call
	var said []string
	p := http1.New(parse.DefaultLimits(), false, func(x *parse.Exchange) {
		c := d.Describe(Context{}, x)
		calls, said = append(calls, c), append(said, fmt.Sprint(c))
	})
	for _, start := range []string{"GET /users/42/orders?page=2&size=ten", "PURGE /a.b/Foo%20Bar;x=1", "OPTIONS *", "GET http://user:pass@other.example/x", "FOO-BAR /sk_live_4eC39HqLyjWDarjtT1zdp7dc", "GET /"} {
		ask := start + " HTTP/1.1\r\n" + head
		if start == "GET /" {
			ask = strings.ReplaceAll(ask, "Authorization", "X-Authorization")
		}
		for side, text := range []string{ask, answer} {
			if err := p.Feed(parse.Side(side), []byte(text), 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(calls) != 6 {
		t.Fatalf("%d calls", len(calls))
	}
	for i, c := range calls {
		if now := fmt.Sprint(c); now != said[i] {
			t.Errorf("a call that was\n%s\nis now\n%s", said[i], now)
		}
	}
}
