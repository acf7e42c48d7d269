package flow

import (
	"github.com/spile/spile/agent/parse"
	"github.com/spile/spile/agent/parse/http1"
	"github.com/spile/spile/agent/parse/http2"
)

// protocol is one row of the table: how its messages begin, and who reads them.
type protocol struct {
	name  string
	sniff func(side parse.Side, data []byte) parse.Verdict
	// make makes a parser; late says that the stream was joined after its first byte.
	make func(limits parse.Limits, late bool, emit func(*parse.Exchange)) parse.Parser
	// exact says that the kernel counts each request of this protocol, wherever in a buffer it begins.
	exact bool
}

// protocolCount sizes the counters that are kept per protocol.
const protocolCount = 2

// protocols in the order in which they are asked.
func protocols() [protocolCount]protocol {
	return [protocolCount]protocol{
		{"http/1", http1.Sniff, func(l parse.Limits, late bool, emit func(*parse.Exchange)) parse.Parser {
			return http1.New(l, late, emit)
		}, false},
		{"http/2", http2.Sniff, func(l parse.Limits, late bool, emit func(*parse.Exchange)) parse.Parser {
			return http2.New(l, late, emit)
		}, true},
	}
}
