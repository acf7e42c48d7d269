package call

import (
	"strings"

	"github.com/spile/spile/proto/segment"
)

const (
	maxPlain      = 4096 // texts that one memory holds; full, it begins anew
	maxPlainBytes = 128
)

// plain remembers texts that masking leaves as they are: to look one up costs less than to judge it, and calls share one
// copy. A text that masking changes is a value and is never kept.
type plain struct{ texts map[string]string }

// get returns what mask makes of a text.
func (p *plain) get(text string, mask func(string) string) string {
	if same, ok := p.texts[text]; ok {
		return same
	}
	return p.keep(text, mask(text))
}

// bytes is get for a text that is no string yet.
func (p *plain) bytes(text []byte, mask func(string) string) string {
	if same, ok := p.texts[string(text)]; ok {
		return same
	}
	s := string(text)
	return p.keep(s, mask(s))
}

func (p *plain) keep(text, masked string) string {
	if masked != text || len(text) > maxPlainBytes {
		return strings.Clone(masked)
	}
	if p.texts == nil || len(p.texts) >= maxPlain {
		p.texts = map[string]string{}
	}
	same := strings.Clone(text)
	p.texts[same] = same
	return same
}

// asIs is the mask of what has been masked.
func asIs(s string) string { return s }

// kinds remembers which path segments are words of a route; all others are judged each time.
type kinds struct{ words map[string]segment.Kind }

func (k *kinds) of(s string) segment.Kind {
	if kind, ok := k.words[s]; ok {
		return kind
	}
	kind := segment.Lex(s)
	if kind.IsName() && len(s) <= maxPlainBytes {
		if k.words == nil || len(k.words) >= maxPlain {
			k.words = map[string]segment.Kind{}
		}
		k.words[strings.Clone(s)] = kind
	}
	return kind
}
