package route

import (
	"strings"
	"testing"

	"github.com/spile/spile/proto/segment"
)

// table holds paths as they come and their templates.
var table = []struct{ path, want string }{
	// Shape of the path.
	{"", "/"},
	{"/", "/"},
	{"*", "*"},
	{"//", "/"},
	{"/users", "/users"},
	{"/users/", "/users"},
	{"//users///orders//", "/users/orders"},
	{"users", "/users"},
	{"/users?id=42", "/users"},
	{"/users#top", "/users"},
	{"/users/42?x=/a/b", "/users/{id}"},
	{"http://shop.example/users/42", "/users/{id}"},
	{"HTTPS://shop.example", "/"},
	{"/a/./b", "/a/b"},
	{"/a/../b", "/b"},
	{"/../../etc/passwd", "/etc/passwd"},
	{"/a/%2e%2E/b", "/b"},
	{"/a/.../b", "/a/.../b"},
	{"/.well-known/openid-configuration", "/.well-known/openid-configuration"},
	// Names stay.
	{"/api/v2/users/me", "/api/v2/users/me"},
	{"/v1beta1/projects", "/v1beta1/projects"},
	{"/de-DE/products", "/de-DE/products"},
	{"/en/help", "/en/help"},
	{"/oauth2/token", "/oauth2/token"},
	{"/s3/buckets", "/s3/buckets"},
	{"/openapi.json", "/openapi.json"},
	{"/wp-login.php", "/wp-login.php"},
	{"/getUserById", "/getUserById"},
	{"/users/alice", "/users/alice"},
	{"/repos/octocat/hello-world", "/repos/octocat/hello-world"},
	{"/caf%C3%A9", "/caf%C3%A9"},
	{"/caf%c3%a9", "/caf%C3%A9"},
	{"/café", "/caf%C3%A9"},
	{"/%75sers", "/users"},
	{"/100%", "/100%25"},
	{"/a%zz", "/a%25zz"},
	{"/a%2Fb", "/a%2Fb"},
	{"/a b", "/a%20b"},
	{"/users/{userId}", "/users/{userId}"},
	// Identifiers.
	{"/users/42", "/users/{id}"},
	{"/users/42/orders", "/users/{id}/orders"},
	{"/users/%34%32", "/users/{id}"},
	{"/users/007", "/users/{id}"},
	{"/users/9007199254740993", "/users/{id}"},
	{"/users/-17", "/users/{number}"},
	{"/items/3.14", "/items/{number}"},
	{"/packages/1.2.3", "/packages/{number}"},
	{"/users/f47ac10b-58cc-4372-a567-0e02b2c3d479", "/users/{id}"},
	{"/users/F47AC10B-58CC-4372-A567-0E02B2C3D479", "/users/{id}"},
	{"/users/01ARZ3NDEKTSV4RRFFQ69G5FAV", "/users/{id}"},
	{"/users/507f1f77bcf86cd799439011", "/users/{id}"},
	{"/commits/a94a8fe5", "/commits/{id}"},
	{"/v/dQw4w9WgXcQ", "/v/{id}"},
	{"/orders/ORD-100017", "/orders/{id}"},
	{"/customers/cus_9s6XKzkNRiz8i3", "/customers/{id}"},
	{"/a/1/b/2/c/3", "/a/{id}/b/{id}/c/{id}"},
	{"/1/2/3", "/{id}/{id}/{id}"},
	{"/users/1,2,3", "/users/{id}"},
	{"/users/1,alice", "/users/1,alice"},
	{"/hosts/192.168.1.10", "/hosts/{ip}"},
	{"/hosts/2001:db8::1", "/hosts/{ip}"},
	{"/reports/2026-11-21", "/reports/{date}"},
	{"/reports/2026-11-21T10:00:00Z", "/reports/{date}"},
	{"/reports/2026-11-21T10%3A00%3A00Z", "/reports/{date}"},
	{"/reports/42.pdf", "/reports/{file}"},
	{"/reports/report-17.pdf", "/reports/{file}"},
	{"/reports/annual.pdf", "/reports/annual.pdf"},
	{"/reports/1700000000.json", "/reports/{file}"},
	// What is private has the name of its mask, masked on the node or not.
	{"/users/joe@example.com", "/users/{email}"},
	{"/users/joe%40example.com", "/users/{email}"},
	{"/users/{email}", "/users/{email}"},
	{"/reset/ghp_0123456789abcdefABCDEF0123456789abcd", "/reset/{secret}"},
	{"/reset/eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJlc2lnbmF0dXJl", "/reset/{secret}"},
	{"/reset/{secret}", "/reset/{secret}"},
	{"/cards/4111111111111111", "/cards/{card}"},
	{"/cards/{card}", "/cards/{card}"},
	{"/accounts/DE89370400440532013000", "/accounts/{iban}"},
	{"/people/078-05-1120", "/people/{ssn}"},
	{"/calls/+4930901820", "/calls/{phone}"},
	{"/x/{id}/y", "/x/{id}/y"},
	{"/x/*/y", "/x/*/y"},
	{"/x/{more}", "/x/*"},
	// Codes that the lexer takes for words, and names that look like codes.
	{"/v/aB3dE9fGh1j", "/v/{id}"},
	{"/links/xK9mQp", "/links/{id}"},
	{"/bookings/AB3XK9", "/bookings/{id}"},
	{"/api/base64url", "/api/base64url"},
	{"/api/sha256sum", "/api/sha256sum"},
	{"/api/getOAuth2Token", "/api/getOAuth2Token"},
	{"/api/iOSDevices", "/api/iOSDevices"},
	{"/api/ISO8601", "/api/ISO8601"},
	{"/api/i18n/k8s/x509/h264", "/api/i18n/k8s/x509/h264"},
	// Identifiers in a frame.
	{"/orders/42:cancel", "/orders/{id}:cancel"},
	{"/projects/shop:setIamPolicy", "/projects/shop:setIamPolicy"},
	{"/Users(42)", "/Users({id})"},
	{"/Users('42')/Orders", "/Users({id})/Orders"},
	{"/Users(alice)", "/Users(alice)"},
	{"/cart;v=2/items", "/cart/items"},
	{"/users/42;v=2", "/users/{id}"},
	// gRPC is exact.
	{"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Check"},
	{"/google.pubsub.v1.Publisher/CreateTopic", "/google.pubsub.v1.Publisher/CreateTopic"},
	{"/shop.v1.Orders/Create", "/shop.v1.Orders/Create"},
	{"/helloworld.Greeter/SayHello", "/helloworld.Greeter/SayHello"},
	{"/pkg.Service2/Get2FA", "/pkg.Service2/Get2FA"},
	{"/annual.pdf/Check", "/annual.pdf/Check"},
	// Bounds.
	{"/" + strings.Repeat("long-word-", 7) + "x", "/{slug}"},
	{"/" + strings.Repeat("%63at-", 10), "/" + strings.Repeat("cat-", 10)},
	{strings.Repeat("/a", 24), strings.Repeat("/a", 24)},
	{strings.Repeat("/a", 25), strings.Repeat("/a", 24) + "/*"},
	{strings.Repeat("/"+strings.Repeat("word-", 12), 20), strings.Repeat("/"+strings.Repeat("word-", 12), 8) + "/*"},
}

func TestTemplates(t *testing.T) {
	if len(table) < 80 {
		t.Fatalf("%d paths", len(table))
	}
	for _, c := range table {
		if got := Template(c.path); got != c.want {
			t.Errorf("Template(%q) = %q, want %q", c.path, got, c.want)
		}
		if got := Template(c.want); got != c.want {
			t.Errorf("Template(%q) = %q: not stable", c.want, got)
		}
		if got := Template(masked(c.path)); got != c.want {
			t.Errorf("Template(%q) = %q, raw gives %q", masked(c.path), got, c.want)
		}
	}
}

// masked is a path as it leaves the node.
func masked(path string) string {
	if i := strings.IndexAny(path, "?#"); i >= 0 {
		path = path[:i]
	}
	parts := strings.Split(path, "/")
	for i, p := range parts {
		parts[i] = segment.Mask(p)
	}
	return strings.Join(parts, "/")
}

func FuzzTemplate(f *testing.F) {
	for _, c := range table {
		f.Add(c.path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		got := Template(path)
		if again := Template(got); again != got {
			t.Errorf("Template(%q) = %q, its template is %q", path, got, again)
		}
		if got != "*" && (got == "" || got[0] != '/') || strings.ContainsAny(got, "?# \r\n\x00") {
			t.Errorf("Template(%q) = %q is no route", path, got)
		}
		if len(got) > maxTemplateBytes+2 || strings.Count(got, "/") > maxSegments+1 {
			t.Errorf("Template(%q) has %d bytes, %d segments", path, len(got), strings.Count(got, "/"))
		}
		if strings.HasPrefix(path, "/") && !strings.ContainsAny(path, "?#") && len(path) < 4096 {
			if m := Template(masked(path)); m != got {
				t.Errorf("Template(%q) = %q, masked %q gives %q", path, got, masked(path), m)
			}
		}
	})
}

func BenchmarkTemplate(b *testing.B) {
	for _, path := range []string{"/api/v2/users/me", "/users/42/orders", "/users/f47ac10b-58cc-4372-a567-0e02b2c3d479/orders/2026-11-21"} {
		b.Run(strings.ReplaceAll(strings.Trim(path, "/"), "/", "_"), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Template(path)
			}
		})
	}
}
