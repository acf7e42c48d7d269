package call

import (
	"encoding/base64"
	"strings"

	"github.com/spile/spile/agent/parse"
	"github.com/spile/spile/proto/segment"
	v1 "github.com/spile/spile/proto/spile/v1"
)

// Schemes and places of credentials, as in v1.Auth.
const (
	schemeBasic, schemeBearer, schemeAPIKey   = "basic", "bearer", "api_key"
	schemeSession, schemeSigV4, schemeOther   = "session", "sigv4", "other"
	inHeader, inQuery, inCookie, inPath       = "header", "query", "cookie", "path"
	maxCredential                             = 16 << 10
	userinfoName                              = "userinfo"
	authorizationName, proxyAuthorizationName = "authorization", "proxy-authorization"
)

// credential is what a request showed. It holds values and dies in this file.
type credential struct {
	scheme, location, name string
	value                  string // the secret, or for Digest and NTLM the whole answer
	principal              string // who says to be asking, where the scheme tells
}

// authenticate fills auth, principal and session of a call. Where a request carries several credentials the most
// telling one is described: Authorization, then a key in a header, in the URL, and last a session cookie.
func (d *Describer) authenticate(c *v1.Call, req *parse.Message, h *head, t target) {
	var session credential
	if h.cookies {
		session = sessionCookie(req.Header)
	}
	if session.value != "" {
		c.Session = d.hash(domainSession, session.value)
	}
	best := authorization(h.value(req.Header, h.authorization))
	if best.scheme == "" {
		best = headerKey(req.Header, h)
	}
	for _, find := range [...]func(target) credential{userinfo, queryKey, pathKey} {
		if best.scheme != "" {
			break
		}
		best = find(t)
	}
	if best.scheme == "" {
		best = session
	}
	if best.scheme == "" {
		return
	}
	c.Auth = &v1.Auth{Scheme: best.scheme, Location: best.location, Name: d.names.get(best.name, credentialName)}
	if best.value != "" {
		c.Auth.Credential = d.hash(domainCredential, best.value)
	}
	if j := d.jwt(best.value); j != nil {
		if best.scheme != schemeSession {
			c.Auth.Scheme = schemeBearer
		}
		c.Auth.Jwt = j.facts
		if j.subject != "" {
			best.principal = j.facts.GetIss() + "\x00" + j.issuer + "\x00" + j.subject
		}
	}
	switch {
	case best.principal != "":
		c.Principal = d.hash(domainPrincipal, best.principal)
	case best.scheme == schemeSession:
		c.Principal = c.Session
	case best.value != "":
		c.Principal = c.Auth.Credential
	}
}

func credentialName(name string) string { return strings.ToLower(maskedName(name)) }

// authorization reads an Authorization header (RFC 9110 section 11.6.2).
func authorization(v string) credential {
	v = strings.TrimSpace(v)
	if v == "" || len(v) > maxCredential {
		return credential{}
	}
	c := credential{location: inHeader, name: authorizationName}
	word, rest, ok := strings.Cut(v, " ")
	rest = strings.TrimSpace(rest)
	if !ok || rest == "" {
		c.scheme, c.value = schemeOther, v // a bare token; a JWT makes it bearer
		return c
	}
	c.value = rest
	switch strings.ToLower(word) {
	case "basic":
		c.scheme = schemeBasic
		if user, ok := basicUser(rest); ok {
			c.principal = "basic\x00" + user
		}
	case "bearer", "token", "jwt", "dpop":
		c.scheme = schemeBearer
	case "apikey", "api-key", "key", "genie-key", "sso-key":
		c.scheme = schemeAPIKey
	case "digest":
		c.scheme = "digest"
		if user := parameter(rest, "username"); user != "" {
			c.principal = "digest\x00" + user
			c.value = "" // the answer changes with each request
		}
	case "ntlm", "negotiate":
		c.scheme = strings.ToLower(word)
	case "aws4-hmac-sha256", "aws4-ecdsa-p256-sha256":
		c.scheme = schemeSigV4
		key, _, _ := strings.Cut(parameter(rest, "credential"), "/")
		c.value, c.principal = key, ""
	default:
		c.scheme = schemeOther
	}
	return c
}

// basicUser is the user of Basic credentials (RFC 7617).
func basicUser(b64 string) (string, bool) {
	raw, err := base64.StdEncoding.DecodeString(b64)
	if err != nil {
		if raw, err = base64.RawStdEncoding.DecodeString(b64); err != nil {
			return "", false
		}
	}
	user, _, ok := strings.Cut(string(raw), ":")
	return user, ok
}

// parameter is the value of name in a list of name=value pairs, quotes removed.
func parameter(list, name string) string {
	for part := range strings.SplitSeq(list, ",") {
		k, v, ok := strings.Cut(strings.TrimSpace(part), "=")
		if ok && strings.EqualFold(k, name) {
			return strings.Trim(v, `"`)
		}
	}
	return ""
}

// headerKey finds an API key or token in a header of its own.
func headerKey(header []parse.Field, h *head) credential {
	for i, t := range h.traits {
		if t&(namesBearer|namesAPIKey|namesSession) == 0 {
			continue
		}
		f := header[i]
		if f.Name == "cookie" || f.Name == proxyAuthorizationName || f.Value == "" || len(f.Value) > maxCredential {
			continue
		}
		if c := named(f.Name, f.Value, inHeader); c.scheme != "" {
			return c
		}
	}
	return credential{}
}

// named makes a credential of a value whose name says that it is one.
func named(name, v, location string) credential {
	c := credential{location: location, name: name, value: v}
	t := traitsOf(name)
	switch {
	case t&namesBearer != 0:
		c.scheme = schemeBearer
	case t&namesAPIKey != 0:
		c.scheme = schemeAPIKey
	case t&namesSession != 0 && location != inHeader:
		c.scheme = schemeSession
	default:
		return credential{}
	}
	return c
}

// userinfo is the user and password of an absolute URL (RFC 3986 section 3.2.1).
func userinfo(t target) credential {
	if t.userinfo == "" || len(t.userinfo) > maxCredential {
		return credential{}
	}
	user, _, _ := strings.Cut(t.userinfo, ":")
	return credential{scheme: schemeBasic, location: inPath, name: userinfoName, value: t.userinfo, principal: "basic\x00" + user}
}

// queryKey finds a credential among the query parameters, by name or by format.
func queryKey(t target) credential {
	rest := t.query
	for rest != "" {
		var pair string
		pair, rest, _ = strings.Cut(rest, "&")
		rawName, rawValue, _ := strings.Cut(pair, "=")
		if rawValue == "" || len(rawValue) > maxCredential {
			continue
		}
		name, v := string(unescapeForm(nil, rawName)), unescapeForm(nil, rawValue)
		if strings.EqualFold(name, "x-amz-credential") {
			key, _, _ := strings.Cut(string(v), "/")
			return credential{scheme: schemeSigV4, location: inQuery, name: name, value: key}
		}
		if c := named(name, string(v), inQuery); c.scheme != "" {
			return c
		}
		if traitsOf(name)&namesPassword != 0 {
			return credential{scheme: schemeOther, location: inQuery, name: name, value: string(v)}
		}
		if holdsToken(v) {
			return credential{scheme: schemeAPIKey, location: inQuery, name: name, value: string(v)}
		}
	}
	return credential{}
}

// pathKey finds a credential of a published format in the path.
func pathKey(t target) credential {
	for s := range strings.SplitSeq(t.path, "/") {
		if len(s) >= 16 && len(s) <= maxCredential && segment.IsToken([]byte(s)) {
			return credential{scheme: schemeAPIKey, location: inPath, value: s}
		}
	}
	return credential{}
}

// sessionCookie is the first cookie whose name says that it carries a session or a token.
func sessionCookie(header []parse.Field) credential {
	for _, h := range header {
		if h.Name != "cookie" {
			continue
		}
		for pair := range strings.SplitSeq(h.Value, ";") {
			name, v, _ := strings.Cut(strings.TrimSpace(pair), "=")
			if v != "" && len(v) <= maxCredential && traitsOf(name)&(namesSession|namesBearer) != 0 {
				return credential{scheme: schemeSession, location: inCookie, name: name, value: v}
			}
		}
	}
	return credential{}
}
