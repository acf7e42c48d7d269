package doctor

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spile/spile/agent/target"
)

// Site is where the probes of one function would go, and how the kernel executes what lies there.
type Site struct {
	File        string `json:"file"`
	Library     string `json:"library"`
	Function    string `json:"function"`
	Offset      uint64 `json:"offset"`      // in the file
	Instruction string `json:"instruction"` // at the offset
	Class       string `json:"class"`
	Inner       *Inner `json:"inner,omitempty"`
	NoInner     string `json:"no_inner,omitempty"` // why none was found, where one would be cheaper
	BuildID     string `json:"build_id,omitempty"`
	InUse       string `json:"in_use,omitempty"` // by the agent whose data was looked at
	line        string
}

// Inner is the cheaper place that takes over once live calls have been the same there.
type Inner struct {
	Name   string `json:"name"`
	Offset uint64 `json:"offset"`
	Class  string `json:"class"`
}

// String is one line for a person.
func (s Site) String() string {
	if s.InUse == "" {
		return s.line
	}
	return s.line + "; in use: " + s.InUse
}

// probeSites judges the code of the libraries that are installed. What a container brings is judged when it is mapped.
func (h Host) probeSites() Check {
	var sites []Site
	var problems []string
	var problem *target.Problem
	cheap, inner := 0, 0
	for _, f := range h.Libraries() {
		if errors.Is(f.Problem, target.ErrNotELF) {
			continue // of another architecture; no program here that can be decoded maps it
		}
		if f.Problem != nil {
			problems = append(problems, target.Innermost(f.Problem))
			errors.As(f.Problem, &problem)
			continue
		}
		for _, at := range f.Sites {
			s := siteOf(f, at)
			if h.InUse != nil {
				s.InUse = h.InUse(f, at)
			}
			switch {
			case s.Inner != nil:
				inner++
			case at.Class == target.Emulated:
				cheap++
			}
			sites = append(sites, s)
		}
	}
	detail := fmt.Sprintf("of %d functions, %d begin with an instruction that is cheap to probe and %d have a cheap one inside", len(sites), cheap, inner)
	if len(sites) == 0 {
		detail = "no TLS library lies where distributions put them; what programs and containers bring is judged when it is mapped"
	}
	c := good(detail)
	if len(problems) > 0 {
		c = warn(detail+"; not readable: "+strings.Join(problems, ", "), "see the file system that it is on")
		if problem != nil {
			c.Remedy = problem.Remedy
		}
	}
	c.Sites = sites
	return c
}

func siteOf(f target.File, at target.Site) Site {
	s := Site{
		File: f.Path, Library: f.Library, Function: at.Symbol, Offset: at.Offset, Instruction: at.Code,
		Class: string(at.Class), NoInner: at.NoInner, BuildID: f.ID.BuildID, line: at.Explain(),
	}
	if at.Inner != nil {
		s.Inner = &Inner{Name: at.Inner.Name, Offset: at.Inner.Offset, Class: string(at.Inner.Class)}
	}
	return s
}
