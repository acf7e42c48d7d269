package call

import (
	"encoding/base64"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spile/spile/proto/segment"
	v1 "github.com/spile/spile/proto/spile/v1"
)

// token is a JWT taken apart. subject and issuer are values: they end in a keyed hash.
type jwtToken struct {
	facts           *v1.Jwt
	subject, issuer string
}

// Bounds of what a token may add to a call.
const (
	maxScopes = 32
	maxClaims = 64
)

// jwt reads the facts of a JSON Web Token in compact form (RFC 7519); nil for anything else. Nothing is verified here:
// the facts are what the token says, and the response tells whether the server believed it.
func (d *Describer) jwt(s string) *jwtToken {
	if !strings.HasPrefix(s, "eyJ") {
		return nil
	}
	head, rest, ok := strings.Cut(s, ".")
	if !ok {
		return nil
	}
	payload, _, _ := strings.Cut(rest, ".")
	header, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(head, "="))
	if err != nil {
		return nil
	}
	j := &jwtToken{facts: &v1.Jwt{}}
	d.members(header, func(name string, t token, v []byte) {
		if name == "alg" && t == tokString {
			j.facts.Alg = algorithm(string(v))
		}
	})
	claims, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(payload, "="))
	if err != nil {
		return j // encrypted (JWE) or damaged: the header is all there is
	}
	d.members(claims, j.claim)
	return j
}

// claim takes one member of the payload, or one element of a member that is an array of strings.
func (j *jwtToken) claim(name string, t token, v []byte) {
	f := j.facts
	if m := maskedName(name); !contains(f.Claims, m) && len(f.Claims) < maxClaims {
		f.Claims = append(f.Claims, m)
	}
	switch {
	case name == "exp" && (t == tokInteger || t == tokNumber):
		f.Expires = numericDate(v)
	case name == "iat" && (t == tokInteger || t == tokNumber):
		f.Issued = numericDate(v)
	case t != tokString:
	case name == "iss":
		j.issuer = string(v)
		f.Iss = maskReference(j.issuer)
	case name == "aud" && len(f.Aud) < maxScopes:
		f.Aud = append(f.Aud, maskReference(string(v)))
	case name == "sub", name == "client_id" && j.subject == "", name == "azp" && j.subject == "":
		j.subject = string(v)
	case name == "scope", name == "scp", name == "scopes", name == "permissions", name == "roles":
		for s := range strings.FieldsSeq(string(v)) {
			if len(f.Scopes) < maxScopes {
				f.Scopes = append(f.Scopes, maskReference(s))
			}
		}
	}
}

// members walks over an object's scalar members and the scalars in arrays that are members.
func (d *Describer) members(data []byte, visit func(name string, t token, v []byte)) {
	s := &d.scan
	s.reset(data)
	var name string
	for {
		t, raw := s.next()
		switch t {
		case tokEnd, tokTruncated, tokInvalid:
			return
		case tokKey:
			if len(s.stack) == 1 {
				d.buf = unescape(d.buf[:0], raw, maxValue)
				name = string(d.buf)
			}
		case tokObject, tokArray:
			if len(s.stack) == 2 {
				visit(name, t, nil)
			}
		case tokString, tokInteger, tokNumber, tokBoolean, tokNull:
			if len(s.stack) == 1 || len(s.stack) == 2 && s.stack[1] == '[' {
				d.buf = unescape(d.buf[:0], raw, maxValue)
				visit(name, t, d.buf)
			}
		}
	}
}

// algorithm keeps the names of RFC 7518 and RFC 8037; "none" in any spelling is what detection looks for.
func algorithm(s string) string {
	switch s {
	case "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "ES256", "ES256K", "ES384", "ES512", "PS256", "PS384", "PS512", "EdDSA", "Ed25519",
		"RSA-OAEP", "RSA-OAEP-256", "RSA1_5", "A128KW", "A256KW", "dir", "ECDH-ES", "ECDH-ES+A128KW", "ECDH-ES+A256KW", "ML-DSA-44", "ML-DSA-65", "ML-DSA-87":
		return strings.Clone(s)
	}
	if strings.EqualFold(s, "none") {
		return "none"
	}
	return "other"
}

func numericDate(v []byte) *timestamppb.Timestamp {
	seconds, err := strconv.ParseFloat(string(v), 64)
	if err != nil || seconds < 0 || seconds > 1<<36 {
		return nil
	}
	return timestamppb.New(time.Unix(int64(seconds), 0).UTC())
}

// maskReference masks a URL or name piece by piece: "https://idp.example/realms/shop" stays, a key in it does not.
func maskReference(s string) string {
	if len(s) > 256 || strings.ContainsAny(s, "?#@") {
		return segment.MaskSecret
	}
	var b strings.Builder
	start := 0
	for i := 0; i <= len(s); i++ {
		if i < len(s) && s[i] != '/' && s[i] != ':' {
			continue
		}
		b.WriteString(segment.MaskHost(s[start:i]))
		if i < len(s) {
			b.WriteByte(s[i])
		}
		start = i + 1
	}
	if out := clean(b.String()); segment.Lex(strings.ReplaceAll(s, "/", "-")) != segment.Secret || strings.Contains(out, "{") {
		return out
	}
	return segment.MaskSecret
}
