package call

import (
	"strings"
	"unicode/utf8"

	"github.com/spile/spile/proto/segment"
)

// traits is what a name tells about its values.
type traits uint8

const (
	namesPassword traits = 1 << iota
	namesSecret          // keys and tokens
	namesObject          // the identifier of an object
	namesSession         // a session credential, as a cookie or parameter
	namesBearer          // an access token
	namesAPIKey
)

// credentialNames are names of credentials with '-', '_' and '.' taken out, lower case.
var credentialNames = map[string]traits{
	"password": namesPassword, "passwd": namesPassword, "pwd": namesPassword, "passphrase": namesPassword, "pass": namesPassword,
	"newpassword": namesPassword, "oldpassword": namesPassword, "currentpassword": namesPassword, "userpassword": namesPassword,

	"accesstoken": namesSecret | namesBearer, "authtoken": namesSecret | namesBearer, "token": namesSecret | namesBearer,
	"jwt": namesSecret | namesBearer, "idtoken": namesSecret | namesBearer, "bearertoken": namesSecret | namesBearer,
	"xauthtoken": namesSecret | namesBearer, "xaccesstoken": namesSecret | namesBearer, "privatetoken": namesSecret | namesAPIKey,
	"xvaulttoken": namesSecret | namesBearer, "xgitlabtoken": namesSecret | namesAPIKey, "refreshtoken": namesSecret | namesBearer,
	"xamzsecuritytoken": namesSecret, "usertoken": namesSecret | namesBearer,

	"apikey": namesSecret | namesAPIKey, "xapikey": namesSecret | namesAPIKey, "apitoken": namesSecret | namesAPIKey, "xapitoken": namesSecret | namesAPIKey,
	"appkey": namesSecret | namesAPIKey, "accesskey": namesSecret | namesAPIKey, "secretkey": namesSecret | namesAPIKey, "subscriptionkey": namesSecret | namesAPIKey,
	"ocpapimsubscriptionkey": namesSecret | namesAPIKey, "xfunctionskey": namesSecret | namesAPIKey, "xgoogapikey": namesSecret | namesAPIKey,
	"ddapikey": namesSecret | namesAPIKey, "xauthkey": namesSecret | namesAPIKey, "xrapidapikey": namesSecret | namesAPIKey,

	"secret": namesSecret, "clientsecret": namesSecret, "privatekey": namesSecret, "signature": namesSecret, "sig": namesSecret,
	"csrftoken": namesSecret, "xcsrftoken": namesSecret, "xxsrftoken": namesSecret, "xsrftoken": namesSecret, "csrf": namesSecret,

	"sessionid": namesSecret | namesSession, "session": namesSecret | namesSession, "sid": namesSecret | namesSession, "jsessionid": namesSecret | namesSession,
	"phpsessid": namesSecret | namesSession, "connectsid": namesSecret | namesSession, "aspnetsessionid": namesSecret | namesSession,
	"aspnetcoresession": namesSecret | namesSession, "sessiontoken": namesSecret | namesSession, "sess": namesSecret | namesSession,
	"aspxauth": namesSecret | namesSession, "laravelsession": namesSecret | namesSession,
}

// traitsOf tells what a name says about its values.
func traitsOf(name string) traits {
	var b [40]byte
	n := 0
	for i := 0; i < len(name) && n < len(b); i++ {
		c := name[i]
		switch {
		case c >= 'A' && c <= 'Z':
			c |= 0x20
		case c == '-', c == '_', c == '.':
			continue
		}
		b[n] = c
		n++
	}
	if t, ok := credentialNames[string(b[:n])]; ok {
		return t
	}
	s := b[:n]
	for _, e := range [...]struct {
		suffix string
		t      traits
	}{
		{"password", namesPassword}, {"apikey", namesSecret | namesAPIKey}, {"csrftoken", namesSecret}, {"sessionid", namesSecret | namesSession},
		{"sessiontoken", namesSecret | namesSession}, {"session", namesSecret | namesSession}, {"accesstoken", namesSecret | namesBearer},
		{"secret", namesSecret}, {"token", namesSecret},
	} {
		if len(s) > len(e.suffix) && string(s[len(s)-len(e.suffix):]) == e.suffix {
			return e.t
		}
	}
	if string(s) == "id" || string(s) == "uuid" || string(s) == "guid" || strings.HasSuffix(name, "_id") || strings.HasSuffix(name, "Id") ||
		strings.HasSuffix(name, "ID") || strings.HasSuffix(name, "-id") {
		return namesObject
	}
	return 0
}

// commonNames are header names that need no mask; looking one up costs less than judging it.
var commonNames = wordSet(`accept accept-charset accept-encoding accept-language accept-ranges access-control-allow-credentials
	access-control-allow-headers access-control-allow-methods access-control-allow-origin access-control-expose-headers
	access-control-max-age access-control-request-headers access-control-request-method age allow alt-svc authorization cache-control
	connection content-disposition content-encoding content-language content-length content-location content-range
	content-security-policy content-type cookie date deprecation dnt etag expect expires forwarded from host idempotency-key
	if-match if-modified-since if-none-match if-range if-unmodified-since keep-alive last-modified link location max-forwards
	origin permissions-policy pragma priority proxy-authenticate proxy-authorization range referer referrer-policy retry-after
	sec-ch-ua sec-ch-ua-mobile sec-ch-ua-platform sec-fetch-dest sec-fetch-mode sec-fetch-site sec-fetch-user server server-timing
	set-cookie strict-transport-security sunset te traceparent tracestate trailer transfer-encoding upgrade
	upgrade-insecure-requests user-agent vary via warning www-authenticate x-api-key x-content-type-options x-forwarded-for
	x-amz-server-side-encryption x-b3-parentspanid x-b3-sampled x-b3-spanid x-b3-traceid x-correlation-id
	x-envoy-upstream-service-time x-forwarded-host x-forwarded-proto x-frame-options x-powered-by x-real-ip x-request-id x-requested-with x-xss-protection`)

func wordSet(words string) map[string]string {
	set := make(map[string]string)
	for _, w := range strings.Fields(words) {
		set[w] = w
	}
	return set
}

// maskedName is segment.MaskName as valid UTF-8, as protobuf demands.
func maskedName(name string) string {
	return clean(segment.MaskName(name))
}

func clean(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
