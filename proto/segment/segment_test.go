package segment

import "testing"

func TestLex(t *testing.T) {
	for in, want := range map[string]Kind{
		"": Empty, "users": Word, "order-items": Word, "getUserAccountById": Word, "how-to-cook-chicken-in-10-minutes": Word,
		"oauth2": Word, ".well-known": Word, "openid-configuration": Word, "utf8": Word, "covid-19": Word, "john%20smith": Word,
		"v1": Version, "v2beta1": Version, "v1.2": Version, "viewer": Word, "de-DE": Locale, "pt_BR": Locale,
		"report.pdf": File, "42.json": File, "index.html": File,
		"42": Integer, "0": Integer, "1788345127012345678": Integer, "-3.5": Number, "1.2.3": Number, "10.0.0.7": IP, "2001:db8::1": IP,
		"550e8400-e29b-41d4-a716-446655440000": UUID, "01ARZ3NDEKTSV4RRFFQ69G5FAV": ULID, "507f1f77bcf86cd799439011": ObjectID,
		"deadbeef42": Hex, "dQw4w9WgXcQ": ID, "cus_9s6XKzkNRiz8i3": Prefixed, "ORD-100017": Prefixed, "2026-11-21": Date,
		"2026-11-21T10%3A00%3A00Z": Date,
		"joe@example.com":          Email, "joe%40example.com": Email, "joe.doe+x@mail.example.co.uk": Email, "@joe": Word,
		"4111111111111111": Card, "4111-1111-1111-1111": Card, "4111111111111112": Integer, "card-4111111111111111": Card,
		"+4930901820": Phone, "%2B49-30-901820": Phone, "DE89370400440532013000": IBAN, "078-05-1120": SSN,
		"{secret}": Secret, "{email}": Email, "{card}": Card, "{phone}": Phone, "{iban}": IBAN, "{ssn}": SSN, "{id}": Folded, "*": Folded,
		"ghp_x7KqPz4mN2vB8wLcT1aR5dYh":                           Secret,
		"sk_live_4eC39HqLyjWDarjt":                               Secret,
		"AKIAIOSFODNN7EXAMPLE":                                   Secret,
		"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc":               Secret,
		"9f86d081884c7d659a2feaa0c55ad015":                       Secret,
		"x7KqPz4mN2vB8wLcT1aR5d":                                 Secret,
		"hunter2-9f86d081884c7d659a2f":                           Secret,
		"users;jsessionid=9f86d081884c7d659a2feaa":               Secret,
		"%78%37%4B%71%50%7A%34%6D%4E%32%76%42%38%77%4C%63%54%31": Secret,
	} {
		if got := Lex(in); got != want {
			t.Errorf("Lex(%q) = %v, want %v", in, got, want)
		}
		if m := Mask(in); Lex(m) != want {
			t.Errorf("Lex(Mask(%q) = %q) = %v, want %v", in, m, Lex(m), want)
		}
	}
}
