package call

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/spile/spile/agent/parse"
)

func TestAuth(t *testing.T) {
	enc := base64.RawURLEncoding.EncodeToString
	jwt := enc([]byte(`{"alg":"RS256"}`)) + "." + enc([]byte(`{"iss":"https://idp.example/realms/shop","sub":"u1","aud":["shop"],"exp":1800000000,"iat":1700000000,"scope":"read write:orders","x":{"y":1}}`)) + ".c2ln"
	for _, c := range []struct{ target, header, scheme, location, name string }{
		{"/", "authorization: Basic am9lOmh1bnRlcjI=", "basic", "header", "authorization"},
		{"/", "authorization: Bearer 9f86d081884c7d659a2f", "bearer", "header", "authorization"},
		{"/", "authorization: Bearer " + jwt, "bearer", "header", "authorization"},
		{"/", "authorization: " + jwt, "bearer", "header", "authorization"},
		{"/", `authorization: Digest username="joe", response="1234"`, "digest", "header", "authorization"},
		{"/", "authorization: NTLM TlRMTVNTUAAB", "ntlm", "header", "authorization"},
		{"/", "authorization: Negotiate YIIB", "negotiate", "header", "authorization"},
		{"/", "authorization: AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261121/eu/s3/aws4_request, Signature=ab", "sigv4", "header", "authorization"},
		{"/", "authorization: Strange thing", "other", "header", "authorization"},
		{"/", "x-api-key: abc", "api_key", "header", "x-api-key"},
		{"/", "cookie: theme=dark; JSESSIONID=12345", "session", "cookie", "jsessionid"},
		{"/?access_token=abc", "", "bearer", "query", "access_token"},
		{"/?api_key=abc", "cookie: sid=1", "api_key", "query", "api_key"},
		{"/?q=ghp_x7KqPz4mN2vB8wLcT1aR5dYh", "", "api_key", "query", "q"},
		{"/?user=joe&password=hunter2", "", "other", "query", "password"},
		{"/?X-Amz-Credential=AKID%2F2026&X-Amz-Signature=ab", "", "sigv4", "query", "x-amz-credential"},
		{"/hooks/ghp_x7KqPz4mN2vB8wLcT1aR5dYh", "", "api_key", "path", ""},
		{"/t/" + jwt, "", "bearer", "path", ""},
		{"http://joe:hunter2@shop.example/", "", "basic", "path", "userinfo"},
		{"/?page=1&token=", "x-csrf-token: abc", "", "", ""},
	} {
		call := describer(t).Describe(Context{}, exchange("GET", c.target, c.header, "", 200, "", ""))
		a := call.Auth
		if a.GetScheme() != c.scheme || a.GetLocation() != c.location || a.GetName() != c.name {
			t.Errorf("%s %s: auth = %v", c.target, c.header, a)
		}
		if (c.scheme == "") != (call.Principal == "") && c.scheme != "negotiate" {
			t.Errorf("%s %s: principal %q", c.target, c.header, call.Principal)
		}
		if strings.Contains(c.header+c.target, jwt) {
			j := a.GetJwt()
			if j.GetAlg() != "RS256" || j.GetIss() != "https://idp.example/realms/shop" || fmt.Sprint(j.GetAud()) != "[shop]" ||
				fmt.Sprint(j.GetScopes()) != "[read write:orders]" || fmt.Sprint(j.GetClaims()) != "[iss sub aud exp iat scope x]" ||
				j.GetExpires().GetSeconds() != 1800000000 || j.GetIssued().GetSeconds() != 1700000000 {
				t.Errorf("jwt = %v", j)
			}
		}
	}
}

func TestPrincipalIsThePerson(t *testing.T) {
	enc := base64.RawURLEncoding.EncodeToString
	principal := func(claims string) string {
		jwt := enc([]byte(`{"alg":"none"}`)) + "." + enc([]byte(claims)) + "."
		return describer(t).Describe(Context{}, exchange("GET", "/", "authorization: Bearer "+jwt, "", 200, "", "")).Principal
	}
	a, b, c := principal(`{"iss":"i","sub":"u1","iat":1}`), principal(`{"iss":"i","sub":"u1","iat":2}`), principal(`{"iss":"i","sub":"u2","iat":1}`)
	if a != b || a == c || a == "" {
		t.Errorf("principals %s %s %s: two tokens of one subject are one principal, two subjects are two", a, b, c)
	}
}

func TestClasses(t *testing.T) {
	for _, c := range []struct{ name, value, class string }{
		{"a", "joe@example.com", "email"}, {"a", "write to joe@example.com now", "email"}, {"a", "joe@localhost", ""}, {"a", "@joe", ""}, {"a", "a@b@", ""},
		{"a", "4111111111111111", "card"}, {"a", "4111 1111 1111 1111", "card"}, {"a", "4111111111111112", ""}, {"a", "1111111111111117", ""}, {"a", "378282246310005", "card"}, {"a", "ab4111111111111111cd", ""},
		{"a", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln", "token"}, {"a", "AKIAIOSFODNN7EXAMPLE", "token"}, {"a", "Bearer ghp_x7KqPz4mN2vB8wLcT1aR5dYh", "token"},
		{"a", "-----BEGIN RSA PRIVATE KEY-----\nMII", "token"}, {"a", "-----BEGIN CERTIFICATE-----\nMII", ""},
		{"token", "9f86d081884c7d659a2feaa0c55ad015", "token"}, {"etag", "9f86d081884c7d659a2feaa0c55ad015", ""}, {"token", "next", ""},
		{"password", "x", "password"}, {"userPassword", "x", "password"}, {"password", "", ""}, {"passwordPolicy", "strict", ""},
		{"a", "DE89370400440532013000", "iban"}, {"a", "DE89370400440532013001", ""}, {"a", "+49 30 901820", "phone"}, {"a", "49301234567", ""},
		{"a", "078-05-1120", "ssn"}, {"a", "000-05-1120", ""}, {"a", "2026-11-21", ""}, {"a", "550e8400-e29b-41d4-a716-446655440000", ""},
	} {
		if got := classify(traitsOf(c.name), []byte(c.value)); got != c.class {
			t.Errorf("%s = %q: class %q, want %q", c.name, c.value, got, c.class)
		}
	}
}

func TestBodies(t *testing.T) {
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	fmt.Fprint(w, `{"email":"joe@example.com"}`)
	w.Close()
	bomb := func() string {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		fmt.Fprint(w, `["`, strings.Repeat("a", 8<<20), `"]`)
		w.Close()
		return b.String()
	}()
	wide := "{"
	for i := range 100 {
		wide += fmt.Sprintf(`"name%c%c":1,`, 'a'+i%26, 'a'+i/26)
	}
	wide += `"z":1}`
	for name, c := range map[string]struct{ header, body, want, coverage string }{
		"truncated":        {"application/json", `{"a":1,"b":"x`, "body.a integer\n", "truncated"},
		"invalid":          {"application/json", `{"a":1,]`, "body.a integer\n", "truncated"},
		"form":             {"application/x-www-form-urlencoded", "a=1&b=joe%40example.com&a=2", "body.a integer\nbody.b string email #\n", ""},
		"map of ids":       {"application/json", `{"550e8400-e29b-41d4-a716-446655440000":{"n":1},"550e8400-e29b-41d4-a716-446655440001":{"n":2}}`, "body.{id}.n integer\n", ""},
		"mail as a key":    {"application/json", `{"joe@example.com":true}`, "body.{email} boolean\n", ""},
		"escaped key":      {"application/json", `{"joe\u0040example.com":true}`, "body.{email} boolean\n", ""},
		"empty":            {"application/json", `{"a":[],"b":{}}`, "body.a array\nbody.b object\n", ""},
		"scalars":          {"application/json", `[1,2.5,null]`, "body[] number\n", ""},
		"nested":           {"application/json", `{"a":[[{"b":1}]]}`, "body.a[][].b integer\n", ""},
		"text":             {"text/html", `<p>`, "", ""},
		"unknown coding":   {"application/json\ncontent-encoding: br", "xyz", "", "no_body"},
		"gzip":             {"application/json\ncontent-encoding: gzip", zipped.String(), "body.email string email\n", ""},
		"gzip cut":         {"application/json\ncontent-encoding: gzip", zipped.String()[:zipped.Len()-9], "body.email string email\n", "truncated"},
		"gzip that is not": {"application/json\ncontent-encoding: gzip", "plain", "", "no_body"},
		"gzip bomb":        {"application/json\ncontent-encoding: gzip", bomb, "body array\n", "truncated"},
		"deep":             {"application/json", strings.Repeat("[", 600) + strings.Repeat("]", 600), "", "truncated"},
	} {
		x := exchange("POST", "/", "", "", 200, "", "")
		x.Response.Header = fields("content-type: " + c.header)
		x.Response.Body = []byte(c.body)
		x.Response.BodyBytes = uint64(len(c.body))
		call := describer(t).Describe(Context{}, x)
		if got := brief(call.Response); got != c.want && name != "deep" {
			t.Errorf("%s: fields\n%swant\n%s", name, got, c.want)
		}
		if got := strings.Join(call.Coverage, " "); got != c.coverage {
			t.Errorf("%s: coverage %q, want %q", name, got, c.coverage)
		}
	}
	x := exchange("POST", "/", "content-type: application/json", wide, 200, "", "")
	c := describer(t).Describe(Context{}, x)
	last := c.Request.Fields[len(c.Request.Fields)-1]
	if len(c.Request.Fields) != maxNames+1 || last.Path != "body.*" || last.Count != 37 {
		t.Errorf("%d fields, the last is %v", len(c.Request.Fields), last)
	}
}

func TestShapeIgnoresOrderAndValues(t *testing.T) {
	shape := func(body string) string {
		return describer(t).Describe(Context{}, exchange("GET", "/", "", "", 200, "content-type: application/json", body)).Response.Shape
	}
	if a, b, c := shape(`{"a":1,"b":"x"}`), shape(`{"b":"yy","a":22}`), shape(`{"a":1,"c":"x"}`); a != b || a == c || a == "" {
		t.Errorf("shapes %s %s %s", a, b, c)
	}
}

func FuzzDescribe(f *testing.F) {
	f.Add("/users/42?page=1", "authorization", "Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.x", "application/json", `[{"a":1}]`)
	f.Add("http://a:b@c/%zz#x", "cookie", "a=b; c", "application/x-www-form-urlencoded", "a=%4&b")
	f.Add("*", "content-encoding", "gzip", "application/json", "\x1f\x8b\x08")
	f.Fuzz(func(t *testing.T, target, name, value, typ, body string) {
		x := exchange("GET", target, "", body, 200, "", body)
		h := []parse.Field{{Name: name, Value: value}, {Name: "content-type", Value: typ}}
		x.Request.Header, x.Response.Header = h, h
		c := describer(t).Describe(Context{}, x)
		if len(c.Request.Fields) > 2*maxFields+maxPathFields+2*maxNames || len(c.Path) > maxPathBytes+len("/{more}") {
			t.Errorf("%d fields, path of %d bytes", len(c.Request.Fields), len(c.Path))
		}
		if _, err := proto.Marshal(c); err != nil {
			t.Errorf("call of %q: %v", target, err)
		}
	})
}

func BenchmarkDescribe(b *testing.B) {
	body := `[` + strings.TrimSuffix(strings.Repeat(`{"id":1042,"name":"Joe Doe","email":"joe@example.com","active":true,"total":12.5,"address":{"city":"Berlin","zip":"10115"}},`, 8), ",") + `]`
	x := exchange("GET", "/users/42/orders?page=2", "host: shop.example\nuser-agent: curl/8\naccept: */*\nauthorization: Bearer 9f86d081884c7d659a2f", "", 200,
		"content-type: application/json\ndate: Sat, 21 Nov 2026 10:00:00 GMT\nserver: nginx\ncache-control: no-store", body)
	b.Run(fmt.Sprintf("json-%d", len(body)), func(b *testing.B) {
		d := describer(b)
		b.ReportAllocs()
		for range b.N {
			d.Describe(Context{}, x)
		}
	})
	x.Response.Body, x.Response.BodyBytes = nil, 0
	b.Run("no-body", func(b *testing.B) {
		d := describer(b)
		b.ReportAllocs()
		for range b.N {
			d.Describe(Context{}, x)
		}
	})
}
