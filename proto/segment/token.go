package segment

// format is a credential that says what it is by how it begins.
type format struct {
	prefix string
	tail   int // characters that must follow
}

// formats lists them by their first letter, so that a look-up costs one comparison for most words.
// The prefixes are the issuers' own, published so that scanners find leaked tokens.
var formats = [256][]format{
	'A': {{"AKIA", 12}, {"ASIA", 12}, {"AROA", 12}, {"AIza", 16}, {"AGE-SECRET-KEY-", 8}},
	'B': {{"BEGIN PRIVATE KEY", 0}, {"BEGIN RSA PRIVATE KEY", 0}, {"BEGIN EC PRIVATE KEY", 0}, {"BEGIN OPENSSH PRIVATE KEY", 0}, {"BEGIN ENCRYPTED PRIVATE KEY", 0}},
	'E': {{"EAACEdEose0cBA", 0}},
	'G': {{"GOCSPX-", 16}},
	'S': {{"SG.", 16}},
	'd': {{"dop_v1_", 16}, {"doo_v1_", 16}, {"dckr_pat_", 8}, {"dapi", 32}},
	'e': {{"eyJ", 12}},
	'g': {{"ghp_", 10}, {"gho_", 10}, {"ghu_", 10}, {"ghs_", 10}, {"ghr_", 10}, {"github_pat_", 10}, {"glpat-", 10}, {"gldt-", 10}, {"glrt-", 10}},
	'h': {{"hf_", 16}, {"hvs.", 16}},
	'n': {{"npm_", 16}},
	'p': {{"pypi-AgE", 8}, {"pk_live_", 10}},
	'r': {{"rk_live_", 10}, {"rk_test_", 10}},
	's': {{"sk_live_", 8}, {"sk_test_", 8}, {"sk-ant-", 8}, {"sk-proj-", 8}, {"sq0atp-", 8}, {"shpat_", 16}, {"shpss_", 16}},
	'w': {{"whsec_", 10}},
	'x': {{"xoxb-", 8}, {"xoxp-", 8}, {"xoxa-", 8}, {"xoxs-", 8}, {"xoxr-", 8}, {"xapp-", 8}},
	'y': {{"ya29.", 8}},
}

// IsToken reports whether b begins with a credential of a published format.
func IsToken(b []byte) bool { return TokenPrefix(b) > 0 }

// TokenPrefix is the length of the public part of a credential of a published format; 0 for anything else.
func TokenPrefix(b []byte) int {
	if len(b) == 0 {
		return 0
	}
	for _, f := range formats[b[0]] {
		if len(b) < len(f.prefix)+f.tail || string(b[:len(f.prefix)]) != f.prefix {
			continue
		}
		if plain(b[len(f.prefix) : len(f.prefix)+f.tail]) {
			return len(f.prefix)
		}
	}
	return 0
}

// plain reports whether all of b could be part of a token.
func plain(b []byte) bool {
	for _, c := range b {
		if cl := classes[c]; cl > dot && c != '+' && c != '/' && c != '=' {
			return false
		}
	}
	return true
}

func (*facts) startsToken(b []byte) bool { return formats[b[0]] != nil && IsToken(b) }

// objects are public prefixes of identifiers that name an object and open nothing, long enough that a random string
// does not begin with one by chance.
var objects = [...]string{"acct_", "cus_", "evt_", "price_", "prod_", "req_", "sub_"}

// isKnownPrefix reports whether b is one of objects with a tail of 14, 16 or 24 letters and digits and nothing more.
func isKnownPrefix(b []byte) bool {
	for _, p := range objects {
		tail := len(b) - len(p)
		if tail != 14 && tail != 16 && tail != 24 || string(b[:len(p)]) != p {
			continue
		}
		for _, c := range b[len(p):] {
			if classes[c] > upper {
				return false
			}
		}
		return true
	}
	return false
}
