package inventory

import (
	"net/http"
	"slices"
	"strings"

	v1 "github.com/spile/spile/proto/spile/v1"
)

// sighting is what one call says, worked out once for service and endpoint.
type sighting struct {
	exists     bool // the answer shows that the endpoint exists
	counts     bool // the call counts as a call
	clientOnly bool
	nanos      int64 // Unix time, 0 unknown
	protocol   string
}

func sightingOf(c *v1.Call) sighting {
	s := sighting{exists: exists(c.StatusCode), protocol: protocolOf(c)}
	s.clientOnly = c.Observed == v1.Observed_OBSERVED_CLIENT
	s.counts = !s.clientOnly || c.GetDestination().GetProcess() == "" && !slices.Contains(c.GetCoverage(), "server_watched")
	if t := c.Time; t != nil {
		s.nanos = t.Seconds*1e9 + int64(t.Nanos)
	}
	return s
}

// exists reports whether an answer says that the server knows the endpoint. 404, 405, 410 and 501 say no; 400 is what many
// servers answer to a path that they cannot read; 0 is no answer.
func exists(status uint32) bool {
	switch status {
	case 0, http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusGone, http.StatusNotImplemented:
		return false
	}
	return true
}

// protocolOf is the protocol of the call, "grpc" where its content type says so.
func protocolOf(c *v1.Call) string {
	if strings.HasPrefix(c.GetRequest().GetContentType(), "application/grpc") {
		return "grpc"
	}
	return c.Protocol
}

// newer reports whether protocol a is to be shown rather than b: grpc before http/2 before http/1.1 before http/1.0.
func newer(a, b string) bool {
	if (a == "grpc") != (b == "grpc") {
		return a == "grpc"
	}
	return a > b
}

// callerOf names who called.
func callerOf(c *v1.Call) string {
	src := c.GetSource()
	switch {
	case src.GetWorkload() != "":
		return src.GetWorkload()
	case src.GetProcess() != "":
		return src.GetProcess()
	}
	return src.GetAddress()
}

// versionOf is the first segment of a route that is a version: v2, v1beta1.
func versionOf(route string) string {
	for seg := range strings.SplitSeq(route, "/") {
		if len(seg) > 1 && len(seg) <= 12 && (seg[0] == 'v' || seg[0] == 'V') && seg[1] >= '0' && seg[1] <= '9' && isVersion(seg[1:]) {
			return strings.ToLower(seg)
		}
	}
	return ""
}

// isVersion knows 2, 2.1, 1alpha, 1beta2.
func isVersion(s string) bool {
	rest := strings.TrimLeft(s, "0123456789.")
	for _, stage := range []string{"alpha", "beta", "rc"} {
		if after, ok := strings.CutPrefix(strings.ToLower(rest), stage); ok {
			rest = strings.TrimLeft(after, "0123456789")
			break
		}
	}
	return rest == ""
}
