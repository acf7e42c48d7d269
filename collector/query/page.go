package query

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
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
	after *key
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
	if json.Unmarshal(raw[filterSum:], &p.after) != nil || p.after == nil {
		return page{}, status.Error(codes.InvalidArgument, "page_token is not one of ours: start again without it")
	}
	return p, nil
}

// key is what a list is ordered by: up to four texts, the last of which tells items apart.
type key [4]string

func (k key) compare(other key) int {
	for i := range k {
		if c := strings.Compare(k[i], other[i]); c != 0 {
			return c
		}
	}
	return 0
}

// cut returns the page of items in the order of their keys, and the token of the next. It puts items in order itself,
// unless they are, which is much cheaper to find out.
func cut[T any](items []T, keyOf func(T) key, p page) ([]T, string) {
	items = ordered(items, keyOf)
	start := 0
	if p.after != nil {
		at, found := slices.BinarySearchFunc(items, *p.after, func(item T, k key) int { return keyOf(item).compare(k) })
		if start = at; found {
			start++
		}
	}
	rest := items[start:]
	if len(rest) <= p.size {
		return rest, ""
	}
	// Four texts always encode.
	last, _ := json.Marshal(keyOf(rest[p.size-1]))
	return rest[:p.size], base64.RawURLEncoding.EncodeToString(append([]byte(p.sum), last...))
}

func ordered[T any](items []T, keyOf func(T) key) []T {
	order := func(a, b T) int { return keyOf(a).compare(keyOf(b)) }
	if slices.IsSortedFunc(items, order) {
		return items
	}
	items = slices.Clone(items)
	slices.SortFunc(items, order)
	return items
}
