package query

import (
	"fmt"
	"strings"

	v1 "github.com/spile/spile/proto/spile/v1"
)

const maxFilters = 32

// compile turns allow and deny lists into one question: sent when any of allow matches (or there is none) and none of deny.
func compile(allow, deny []*v1.CallFilter) (func(*v1.Call) bool, error) {
	if len(allow)+len(deny) > maxFilters {
		return nil, fmt.Errorf("%d filters; at most %d", len(allow)+len(deny), maxFilters)
	}
	for _, list := range [][]*v1.CallFilter{allow, deny} {
		for _, f := range list {
			if err := validate(f); err != nil {
				return nil, err
			}
		}
	}
	return func(c *v1.Call) bool {
		for _, f := range deny {
			if matches(f, c) {
				return false
			}
		}
		for _, f := range allow {
			if matches(f, c) {
				return true
			}
		}
		return len(allow) == 0
	}, nil
}

func validate(f *v1.CallFilter) error {
	for name, pattern := range map[string]string{
		"service": f.GetService(), "method": f.GetMethod(), "route": f.GetRoute(), "path": f.GetPath(), "protocol": f.GetProtocol(),
		"process": f.GetProcess(), "principal": f.GetPrincipal(), "data_class": f.GetDataClass(),
	} {
		if i := strings.IndexByte(pattern, '*'); i >= 0 && i != len(pattern)-1 {
			return fmt.Errorf("filter %s %q: a * may only stand at the end", name, pattern)
		}
	}
	if s := f.GetStatusCode(); s != 0 && !(s >= 1 && s <= 9) && !(s >= 100 && s <= 999) {
		return fmt.Errorf("filter status_code %d: neither a status (404) nor a class (4)", s)
	}
	return nil
}

func matches(f *v1.CallFilter, c *v1.Call) bool {
	return like(f.GetService(), c.GetService()) &&
		like(strings.ToUpper(f.GetMethod()), c.GetMethod()) &&
		like(f.GetRoute(), c.GetRoute()) &&
		like(f.GetPath(), c.GetPath()) &&
		like(f.GetProtocol(), c.GetProtocol()) &&
		like(f.GetPrincipal(), c.GetPrincipal()) &&
		(like(f.GetProcess(), c.GetSource().GetProcess()) || like(f.GetProcess(), c.GetDestination().GetProcess())) &&
		statusMatches(f.GetStatusCode(), c.GetStatusCode()) &&
		classMatches(f.GetDataClass(), c)
}

func like(pattern, value string) bool {
	if pattern == "" {
		return true
	}
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(value, prefix)
	}
	return pattern == value
}

func statusMatches(want, got uint32) bool {
	return want == 0 || want == got || want < 10 && want == got/100
}

func classMatches(pattern string, c *v1.Call) bool {
	if pattern == "" {
		return true
	}
	for _, content := range []*v1.Content{c.GetRequest(), c.GetResponse()} {
		for _, f := range content.GetFields() {
			if f.GetClass() != "" && like(pattern, f.GetClass()) {
				return true
			}
		}
	}
	return false
}
