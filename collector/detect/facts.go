package detect

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	v1 "github.com/spile/spile/proto/spile/v1"
)

// facts is a set of bits, computed once per call, that rules name in needs.
type facts uint32

const (
	factSuccess facts = 1 << iota
	factNoAuth
	factCredential
	factURLCredential
	factPersonalAnswer
	factHTTP
)

// fact is one name that a rule may use in needs.
type fact struct {
	name  string
	bit   facts
	holds func(*v1.Call) bool
}

// factTable is every fact there is. A new one is a line here.
func factTable() []fact {
	return []fact{
		// Answered with 2xx.
		{"success", factSuccess, func(c *v1.Call) bool { return c.GetStatusCode()/100 == 2 }},
		// No credential scheme was recognised in the request.
		{"no_auth", factNoAuth, func(c *v1.Call) bool { return c.GetAuth().GetScheme() == "" }},
		// The request carried a credential: a scheme, or a field that is a secret.
		{"credential", factCredential, func(c *v1.Call) bool { return c.GetAuth().GetScheme() != "" || hasSecret(c.GetRequest()) }},
		// The request's path or query carried one.
		{"url_credential", factURLCredential, func(c *v1.Call) bool {
			at := c.GetAuth().GetLocation()
			return at == "query" || at == "path" || slices.ContainsFunc(c.GetRequest().GetFields(), func(f *v1.Field) bool {
				return (strings.HasPrefix(f.GetPath(), "query.") || strings.HasPrefix(f.GetPath(), "path.")) && isSecret(f)
			})
		}},
		// The response holds personal data.
		{"personal_answer", factPersonalAnswer, func(c *v1.Call) bool {
			return slices.ContainsFunc(c.GetResponse().GetFields(), func(f *v1.Field) bool { return isPersonal(f.GetClass()) })
		}},
		// Not encrypted on this hop.
		{"http", factHTTP, func(c *v1.Call) bool { return c.GetScheme() == "http" }},
	}
}

// needed resolves the names of a rule's needs.
func needed(names []string) (facts, error) {
	var set facts
	for _, name := range names {
		i := slices.IndexFunc(factTable(), func(f fact) bool { return f.name == name })
		if i < 0 {
			var known []string
			for _, f := range factTable() {
				known = append(known, f.name)
			}
			return 0, fmt.Errorf("need %q is not one of %s", name, strings.Join(known, ", "))
		}
		set |= factTable()[i].bit
	}
	return set, nil
}

// isPersonal says whether a data class is about a person. Other classes (token, uuid, ...) are not.
func isPersonal(class string) bool {
	switch class {
	case "email", "phone", "card", "iban", "ssn", "national_id", "tax_id", "passport", "birth_date", "postal_address", "person_name", "health":
		return true
	}
	return false
}

// isSecret says whether a field is a credential, by its class or, where there is no class, by its name.
// Names of one-time, anti-forgery and paging tokens are not: they are made to be seen.
func isSecret(f *v1.Field) bool {
	byClass := false
	switch f.GetClass() {
	case "token", "jwt", "password", "secret", "api_key", "private_key":
		byClass = true
	case "":
	default:
		return false
	}
	name := f.GetPath()
	// The last step of the path is the field's own name.
	if i := strings.LastIndexAny(name, ".]"); i >= 0 {
		name = name[i+1:]
	}
	if len(name) > 64 {
		return byClass
	}
	name = strings.NewReplacer("_", "", "-", "").Replace(strings.ToLower(name))
	if byClass {
		switch name {
		case "pagetoken", "nextpagetoken", "nexttoken", "continuationtoken", "continuation", "cursor", "synctoken",
			"csrftoken", "xsrftoken", "csrfmiddlewaretoken", "authenticitytoken", "requestverificationtoken", "csrf", "xsrf",
			"state", "nonce", "code", "codechallenge", "etag", "grecaptcharesponse":
			return false
		}
		return true
	}
	switch name {
	case "password", "passwd", "passphrase", "pwd", "clientsecret", "currentpassword", "newpassword", "oldpassword":
		return true
	}
	return false
}

func hasSecret(c *v1.Content) bool { return slices.ContainsFunc(c.GetFields(), isSecret) }

// secrets lists the paths of a content's secret fields, in the content's order.
func secrets(c *v1.Content) []string {
	var paths []string
	for _, f := range c.GetFields() {
		if isSecret(f) && !slices.Contains(paths, f.GetPath()) {
			paths = append(paths, f.GetPath())
		}
	}
	return paths
}

// exposed lists the personal classes of which the response holds more than the request did, sorted.
// What the caller said itself and got back is an echo and discloses nothing.
func exposed(c *v1.Call) []string {
	var classes []string
	for _, f := range c.GetResponse().GetFields() {
		class := f.GetClass()
		if isPersonal(class) && !slices.Contains(classes, class) && countClass(c.GetResponse(), class) > countClass(c.GetRequest(), class) {
			classes = append(classes, class)
		}
	}
	slices.Sort(classes)
	return classes
}

func countClass(c *v1.Content, class string) (n uint64) {
	for _, f := range c.GetFields() {
		if f.GetClass() == class {
			n += uint64(max(f.GetCount(), 1))
		}
	}
	return n
}

// onLoopback says whether the call stayed on its host. A packet from or to a loopback address never leaves it (RFC 1122
// section 3.2.1.3), so one known end is enough where the other is unknown.
func onLoopback(c *v1.Call) bool {
	known := false
	for _, address := range []string{c.GetSource().GetAddress(), c.GetDestination().GetAddress()} {
		if address == "" {
			continue
		}
		a, err := netip.ParseAddr(address)
		if err != nil || !a.Unmap().IsLoopback() {
			return false
		}
		known = true
	}
	return known
}
