package call

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/spile/spile/agent/parse"
	v1 "github.com/spile/spile/proto/spile/v1"
)

var testKey = []byte("0123456789abcdef0123456789abcdef")

func describer(t testing.TB) *Describer {
	t.Helper()
	return New(Config{Key: testKey, KeyEpoch: 3, Node: "n1"})
}

// exchange makes one of header lines ("name: value") and bodies.
func exchange(method, target, header, body string, status int, resHeader, resBody string) *parse.Exchange {
	return &parse.Exchange{
		Request: &parse.Message{Protocol: "http/1.1", Method: method, Target: target, Authority: "Shop.example:8443", Header: fields(header),
			Body: []byte(body), BodyBytes: uint64(len(body)), Start: time.Second, HeadEnd: time.Second, End: time.Second, HeadComplete: true, Complete: true},
		Response: &parse.Message{Protocol: "http/1.1", Status: status, Header: fields(resHeader), Body: []byte(resBody), BodyBytes: uint64(len(resBody)),
			Start: 2 * time.Second, HeadEnd: 2 * time.Second, End: 3 * time.Second, HeadComplete: true, Complete: true},
	}
}

func fields(lines string) (out []parse.Field) {
	for l := range strings.SplitSeq(lines, "\n") {
		if n, v, ok := strings.Cut(strings.TrimSpace(l), ": "); ok {
			out = append(out, parse.Field{Name: n, Value: v})
		}
	}
	return out
}

// brief prints what tests compare: "path type class count" of each field.
func brief(c *v1.Content) string {
	var b strings.Builder
	for _, f := range c.Fields {
		b.WriteString(f.Path + " " + f.Type)
		if f.Class != "" {
			b.WriteString(" " + f.Class)
		}
		if f.Hash != "" {
			b.WriteString(" #")
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func TestDescribe(t *testing.T) {
	d := describer(t)
	x := exchange("POST", "/users/42/orders?page=2&q=shoes", "host: shop.example\ncontent-type: application/json; charset=utf-8\nx-api-key: 9f86d081884c7d659a2f\naccept: */*",
		`{"email":"joe@example.com","items":[{"id":1,"price":2.5},{"id":2,"note":null}],"password":"hunter2"}`,
		200, "content-type: application/json\ncache-control: no-store, max-age=12345", `[{"email":"a@example.com","card":"4111 1111 1111 1111"},{"email":"b@example.com"}]`)
	c := d.Describe(Context{BootToUnix: time.Hour, TLS: true, Boot: "b", Conn: 7}, x)
	if c.Authority != "shop.example:8443" || c.Path != "/users/42/orders" || c.Scheme != "https" || c.StatusCode != 200 || len(c.Id) != 32 {
		t.Errorf("call = %s", protojson.Format(c))
	}
	if got, want := c.Time.AsTime(), time.Unix(3601, 0).UTC(); !got.Equal(want) || c.Duration.AsDuration() != 2*time.Second {
		t.Errorf("time %v, duration %v", got, c.Duration)
	}
	want := "path.1 integer #\nquery.page integer #\nquery.q string\nbody.email string email\nbody.items[].id integer\nbody.items[].price number\nbody.items[].note null\nbody.password string password\n"
	if got := brief(c.Request); got != want {
		t.Errorf("request fields:\n%s\nwant:\n%s", got, want)
	}
	if c.Request.Records != 2 || c.Response.Records != 2 || c.Response.Fields[0].Count != 2 || c.Response.Fields[1].Class != "card" {
		t.Errorf("contents = %s", protojson.Format(c))
	}
	if c.Response.Headers["cache-control"] != "no-store, max-age=3600" {
		t.Errorf("headers = %v", c.Response.Headers)
	}
	if c.Auth.GetScheme() != "api_key" || c.Auth.GetLocation() != "header" || c.Auth.GetName() != "x-api-key" || c.Principal == "" {
		t.Errorf("auth = %v", c.Auth)
	}
	if again := d.Describe(Context{BootToUnix: time.Hour, TLS: true, Boot: "b", Conn: 7}, x); !proto.Equal(c, again) {
		t.Error("describing an exchange twice gives two different calls")
	}
	x.Response.HeadComplete = false
	if d.Describe(Context{}, x) != nil {
		t.Error("half an exchange became a call")
	}
}
