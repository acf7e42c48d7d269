package query

import (
	"crypto/sha256"
	"encoding/base64"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	defaultPage = 100
	maxPage     = 1000
	// filterSum is how many bytes of the filter's hash a token carries.
	filterSum = 8
)

// page is one request of a list: how many items and after which key. A key, not a count, so that items which come or go
// between two pages neither repeat nor hide others.
type page struct {
	size  int
	after string
	sum   string
}

// parsePage reads size and token; filter are the request's other fields, which the token is bound to.
func parsePage(size uint32, token string, filter ...string) (page, error) {
	sum := sha256.Sum256([]byte(strings.Join(filter, "\x00")))
	p := page{size: int(size), sum: string(sum[:filterSum])}
	switch {
	case size == 0:
		p.size = defaultPage
	case size > maxPage:
		return page{}, status.Errorf(codes.InvalidArgument, "page_size %d: at most %d", size, maxPage)
	}
	if token == "" {
		return p, nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(raw) <= filterSum {
		return page{}, status.Error(codes.InvalidArgument, "page_token is not one of ours: start again without it")
	}
	if string(raw[:filterSum]) != p.sum {
		return page{}, status.Error(codes.InvalidArgument, "page_token belongs to another filter: start again without it")
	}
	p.after = string(raw[filterSum:])
	return p, nil
}

// cut returns the page of items in the order of their keys, which are unique and not empty, and the token of the next.
func cut[T any](items []T, key func(T) string, p page) ([]T, string) {
	type keyed struct {
		key  string
		item T
	}
	rest := make([]keyed, 0, len(items))
	for _, it := range items {
		if k := key(it); k > p.after {
			rest = append(rest, keyed{k, it})
		}
	}
	slices.SortFunc(rest, func(a, b keyed) int { return strings.Compare(a.key, b.key) })
	next := ""
	if len(rest) > p.size {
		rest = rest[:p.size]
		next = base64.RawURLEncoding.EncodeToString([]byte(p.sum + rest[p.size-1].key))
	}
	out := make([]T, len(rest))
	for i, k := range rest {
		out[i] = k.item
	}
	return out, next
}
