package http1

import (
	"bytes"

	"github.com/spile/spile/agent/parse"
)

// longestMethod bounds the methods that a parser in step accepts; IANA's longest is UPDATEREDIRECTREF with 17.
const longestMethod = 24

// methods that mark the begin of a request where nothing else is known (RFC 9110 §9, 5789, 4918).
func knownMethod(m []byte) bool {
	switch string(m) {
	case "GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "CONNECT", "TRACE",
		"PROPFIND", "PROPPATCH", "MKCOL", "COPY", "MOVE", "LOCK", "UNLOCK", "REPORT", "SEARCH", "QUERY", "PURGE":
		return true
	}
	return false
}

// Sniff says whether a buffer that begins with data begins a message of side.
func Sniff(side parse.Side, data []byte) parse.Verdict {
	if side == parse.Responses {
		return sniffResponse(data)
	}
	i := bytes.IndexByte(data[:min(len(data), longestMethod+1)], ' ')
	if i < 0 {
		if len(data) > 9 || !upper(data) {
			return parse.No
		}
		return parse.Maybe
	}
	if !knownMethod(data[:i]) {
		return customMethod(data, i)
	}
	if i+1 == len(data) {
		return parse.Maybe
	}
	if c := data[i+1]; c == '/' || c == '*' || c == 'h' || c == 'H' || string(data[:i]) == "CONNECT" {
		return parse.Yes
	}
	return parse.No
}

// customMethod wants the rest of the request line as proof.
func customMethod(data []byte, space int) parse.Verdict {
	end := bytes.IndexByte(data, '\n')
	if space == 0 || end < space || data[space+1] != '/' && data[space+1] != 'h' {
		return parse.No
	}
	for _, c := range data[:space] {
		if !token(c) {
			return parse.No
		}
	}
	if line := trimEnd(data[:end]); len(line) > 9 && string(line[len(line)-9:len(line)-1]) == " HTTP/1." {
		return parse.Yes
	}
	return parse.No
}

// sniffResponse wants "HTTP/1.x ddd".
func sniffResponse(data []byte) parse.Verdict {
	if v := parse.Prefix(data, "HTTP/1."); v != parse.Yes {
		return v
	}
	const pattern = "HTTP/1.d ddd"
	for i := 7; i < len(pattern); i++ {
		if i >= len(data) {
			return parse.Maybe
		}
		digit := data[i] >= '0' && data[i] <= '9'
		if (pattern[i] == 'd') != digit || (pattern[i] == ' ' && data[i] != ' ') {
			return parse.No
		}
	}
	return parse.Yes
}

func upper(b []byte) bool {
	for _, c := range b {
		if c < 'A' || c > 'Z' {
			return false
		}
	}
	return len(b) > 0
}
