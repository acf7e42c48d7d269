package call

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/spile/spile/agent/parse"
)

// canaries makes secrets and remembers them, in the forms in which they could leave.
type canaries struct {
	r       *rand.Rand
	needles [][]byte
}

func (c *canaries) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(c.r.Uint32())
	}
	return b
}

// secret is 16 to 32 random bytes in one of the forms in which programs hand out keys.
func (c *canaries) secret() string {
	raw := c.bytes(16 + c.r.IntN(17))
	var s string
	switch c.r.IntN(6) {
	case 0:
		s = hex.EncodeToString(raw)
	case 1:
		s = base64.RawURLEncoding.EncodeToString(raw)
	case 2:
		s = strings.ToUpper(hex.EncodeToString(raw))
	case 3:
		s = "hunter2-" + base64.RawURLEncoding.EncodeToString(raw)
	case 4:
		s = "ghp_" + hex.EncodeToString(raw)
	default:
		for _, b := range raw {
			s += string("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"[int(b)%62])
		}
		s += "7q" // 16 random characters and an end
	}
	c.remember(s)
	return s
}

func (c *canaries) remember(s string) {
	core := s[len(s)/4 : len(s)-len(s)/4] // half a secret is a leak too
	c.needles = append(c.needles, []byte(core), []byte(hex.EncodeToString([]byte(core))), []byte(strings.ToLower(core)))
	for shift := range 3 {
		enc := base64.StdEncoding.EncodeToString(append(make([]byte, shift), core...))
		c.needles = append(c.needles, []byte(enc[4:len(enc)-4]))
	}
	var p strings.Builder
	for i := range len(core) {
		fmt.Fprintf(&p, "%%%02X", core[i])
	}
	c.needles = append(c.needles, []byte(p.String()))
}

// pick returns a secret in one of four cases, else a word.
func (c *canaries) pick(word string) string {
	if c.r.IntN(4) == 0 {
		return c.secret()
	}
	return word
}

func (c *canaries) jwt() string {
	enc := base64.RawURLEncoding.EncodeToString
	claims := fmt.Sprintf(`{"iss":"https://idp.example/%s","sub":%q,"aud":[%q,"shop"],"scope":"read %s","%s":1,"exp":1800000000}`, c.pick("realm"), c.secret(), c.pick("a"), c.pick("write"), c.pick("k"))
	t := enc([]byte(`{"alg":"RS256","kid":"`+c.secret()+`"}`)) + "." + enc([]byte(claims)) + "."
	sig := c.secret()
	return t + sig
}

func (c *canaries) json(depth int) string {
	switch c.r.IntN(6) {
	case 0:
		return fmt.Sprintf("%q", c.secret())
	case 1:
		return "12345"
	case 2:
		return fmt.Sprintf("\"Bearer %s\"", c.secret())
	}
	if depth > 3 {
		return "true"
	}
	if c.r.IntN(3) == 0 {
		return "[" + c.json(depth+1) + "," + c.json(depth+1) + "]"
	}
	return fmt.Sprintf(`{%q:%s,%q:%s}`, c.pick("name"), c.json(depth+1), c.pick("password"), c.json(depth+1))
}

func (c *canaries) header() (out []parse.Field) {
	for _, n := range []string{"server", "allow", "cache-control", "www-authenticate", "sunset", "deprecation", "content-encoding", "access-control-allow-origin", "x-frame-options", "user-agent", "x-thing"} {
		if c.r.IntN(3) == 0 {
			out = append(out, parse.Field{Name: n, Value: c.pick("x") + ", " + c.secret()})
		}
	}
	out = append(out, parse.Field{Name: strings.ToLower(c.pick("x-custom")), Value: c.secret()})
	out = append(out, parse.Field{Name: "set-cookie", Value: c.pick("sid") + "=" + c.secret() + "; Path=/" + c.secret()})
	return out
}

func (c *canaries) exchange() *parse.Exchange {
	req := &parse.Message{Protocol: "http/1.1", Method: c.pick("POST"), HeadComplete: true, Complete: true, Start: time.Second, End: 2 * time.Second}
	req.Authority = c.pick("shop") + ".example:" + c.pick("8080")
	target := "/users/" + c.pick("42") + "/" + c.pick("orders") + ";v=" + c.pick("1")
	if c.r.IntN(4) == 0 {
		target = "http://" + c.secret() + ":" + c.secret() + "@" + c.pick("h") + ".example" + target
	}
	target += "?" + c.pick("page") + "=" + url.QueryEscape(c.secret()) + "&access_token=" + c.secret()
	req.Target = target
	req.Header = c.header()
	auth := []string{"Bearer " + c.secret(), "Bearer " + c.jwt(), "Basic " + base64.StdEncoding.EncodeToString([]byte(c.secret()+":"+c.secret())),
		c.secret(), c.secret() + " " + c.secret(), `Digest username="` + c.secret() + `", response="` + c.secret() + `"`,
		"AWS4-HMAC-SHA256 Credential=" + c.secret() + "/20261121/eu/s3, Signature=" + c.secret()}
	req.Header = append(req.Header, parse.Field{Name: "authorization", Value: auth[c.r.IntN(len(auth))]},
		parse.Field{Name: "cookie", Value: c.pick("sid") + "=" + c.secret() + "; " + c.pick("theme") + "=" + c.secret()})
	if c.r.IntN(2) == 0 {
		req.Header = append(req.Header, parse.Field{Name: "content-type", Value: "application/json; p=" + c.secret()})
		req.Body = []byte(c.json(0))
	} else {
		req.Header = append(req.Header, parse.Field{Name: "content-type", Value: "application/x-www-form-urlencoded"})
		req.Body = []byte(c.pick("user") + "=" + c.secret() + "&password=" + url.QueryEscape(c.secret()))
	}
	res := &parse.Message{Protocol: "http/1.1", Status: 200, HeadComplete: true, Complete: true, Header: c.header(), Body: []byte(c.json(0)), Start: 2 * time.Second, End: 3 * time.Second}
	res.Header = append(res.Header, parse.Field{Name: "content-type", Value: c.pick("application") + "/" + c.pick("json")})
	for _, m := range []*parse.Message{req, res} {
		if c.r.IntN(8) == 0 {
			m.Body = m.Body[:c.r.IntN(len(m.Body)+1)]
			m.BodyTruncated = true
		}
		m.BodyBytes = uint64(len(m.Body))
	}
	return &parse.Exchange{Request: req, Response: res}
}

// Random secrets in every place of an exchange never appear in the call, in any encoding.
func TestCanary(t *testing.T) {
	n := 20_000
	if testing.Short() {
		n = 2_000
	}
	if v, err := strconv.Atoi(os.Getenv("SPILE_CANARIES")); err == nil {
		n = v
	}
	d := describer(t)
	c := &canaries{r: rand.New(rand.NewPCG(1, 2))}
	leaks := 0
	for i := range n {
		c.needles = c.needles[:0]
		x := c.exchange()
		call := d.Describe(Context{}, x)
		wire, err := proto.Marshal(call)
		if err != nil {
			t.Fatal(err)
		}
		for _, needle := range c.needles {
			if bytes.Contains(wire, needle) {
				leaks++
				t.Errorf("exchange %d: %q left in %v", i, needle, call)
			}
		}
		if leaks > 5 {
			t.FailNow()
		}
	}
}
