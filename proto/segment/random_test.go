package segment

import (
	"math/rand/v2"
	"strings"
	"testing"
)

const base62 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

func random(r *rand.Rand, alphabet string, n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = alphabet[r.IntN(len(alphabet))]
	}
	return string(b)
}

// A random string is masked but for a rate that is bounded here: what is missed looks like words.
func TestRandomIsMasked(t *testing.T) {
	for _, c := range []struct {
		name, alphabet string
		length         int
		missed         int // at most, of n
	}{
		{"base62, 16", base62, 16, 20},
		{"base62, 22", base62, 22, 2},
		{"base64url, 22 (128 bits)", base62 + "-_", 22, 4},
		{"base64url, 43 (256 bits)", base62 + "-_", 43, 0},
		{"base64, 44, padded", base62 + "+/", 43, 0},
		{"base36, 24", base62[26:], 24, 20},
		{"hex, 32", "0123456789abcdef", 32, 0},
		{"hex, 64", "0123456789ABCDEF", 64, 0},
	} {
		r := rand.New(rand.NewPCG(1, 2))
		missed, n := 0, 200_000
		for range n {
			s := random(r, c.alphabet, c.length)
			if c.name[:3] == "bas" && strings.HasSuffix(c.name, "padded") {
				s = strings.ReplaceAll(strings.ReplaceAll(s, "+", "%2B"), "/", "%2F") + "%3D"
			}
			if !Lex(s).IsPrivate() {
				missed++
			}
		}
		t.Logf("%s: %d of %d missed", c.name, missed, n)
		if missed > c.missed {
			t.Errorf("%s: %d of %d random strings would leave the node, at most %d may", c.name, missed, n, c.missed)
		}
	}
}

// Names of real APIs stay as they are.
func TestNamesStay(t *testing.T) {
	for _, s := range strings.Fields(`organizations pull-requests merge_requests repository-permissions applicationServiceProviders notificationPreferences
		deploymentConfigurations virtualMachineScaleSets networkSecurityGroups contentDeliveryNetworks subscription_items payment_methods
		billing_portal checkout_sessions customer-managed-encryption-keys horizontalpodautoscalers validatingwebhookconfigurations
		persistentvolumeclaims serviceaccounts customresourcedefinitions createdAt updatedAt expirationDateTime firstName
		shippingAddressLine2 two-factor-authentication password-reset-confirmation internationalization graphql well-known
		oauth-authorization-server actuator healthcheck readiness swagger-ui.html api-docs invoices2024 iso-3166-countries
		how-to-cook-chicken-in-10-minutes access_token refresh_token_expires_in x-ratelimit-remaining x-request-start
		transaction-reference-numbers geschwindigkeitsbegrenzung conversations.replies chat.postMessage kubernetes-dashboard
		content-security-policy-report-only sec-websocket-extensions isPrimaryContact hasOutstandingBalance
		grpc.health.v1.Health google.pubsub.v1.Publisher google.cloud.secretmanager.v1beta2.SecretManagerService`) {
		if m := MaskName(s); m != s {
			t.Errorf("MaskName(%q) = %q", s, m)
		}
	}
}

func TestHeaderNames(t *testing.T) {
	for _, s := range strings.Fields(`access-control-request-headers content-security-policy-report-only x-ratelimit-remaining 
		sec-websocket-extensions x-correlation-identifier x-content-type-options strict-transport-security cf-connecting-ip
		grpc-accept-encoding x-cloud-trace-context x-github-request-id
		stripe-idempotency-key ocp-apim-subscription-key x-hub-signature-256 x-datadog-sampling-priority`) {
		if m := MaskHeaderName(s); m != s {
			t.Errorf("MaskHeaderName(%q) = %q", s, m)
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	missed := 0
	for range 200_000 {
		s := strings.ToLower(random(r, base62+"-_", 22))
		if MaskHeaderName(s) == s {
			missed++
		}
	}
	t.Logf("%d of 200000 random names in lower case missed", missed)
	if missed > 20 {
		t.Errorf("%d of 200000 random names would leave the node", missed)
	}
}

func FuzzMask(f *testing.F) {
	for _, s := range []string{"", "users", "42", "%", "%4", "%zz", "{secret}", "{", "a@b.co", "4111111111111111", "eyJhbGciOiJIUzI1NiJ9.e30.x", "\xff\xfe", strings.Repeat("a", 300), "v1", "+49", "2026-11-21T"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		k, m := Lex(s), Mask(s)
		if Lex(m) != k {
			t.Errorf("Lex(%q) = %v, of its mask %q %v", s, k, m, Lex(m))
		}
		if Mask(m) != m {
			t.Errorf("Mask(%q) = %q is masked again", s, m)
		}
		if n := MaskName(s); MaskName(n) != n {
			t.Errorf("MaskName(%q) = %q is masked again", s, n)
		}
		if h := MaskHost(s); MaskHost(h) != h {
			t.Errorf("MaskHost(%q) = %q is masked again", s, h)
		}
		LexValue([]byte(s))
	})
}

func BenchmarkLex(b *testing.B) {
	for _, s := range []string{"users", "organization-members", "42", "550e8400-e29b-41d4-a716-446655440000", "x7KqPz4mN2vB8wLcT1aR5dYhQ3", "joe%40example.com"} {
		b.Run(s, func(b *testing.B) {
			b.ReportAllocs()
			for range b.N {
				Mask(s)
			}
		})
	}
}
