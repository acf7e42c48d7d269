package target

import (
	"cmp"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// sight is what a look at a process showed.
type sight struct {
	pid       uint32
	process   string
	denied    string   // why no probe may be in it
	fault     string   // why nothing could be seen
	decoded   []string // libraries with probes
	problems  []string // sentences about libraries that should have probes and have none
	others    []string // implementations that nothing is known to decode
	hints     []hint   // what may be one more of them
	unprobed  []string // functions that move plain bytes past the probes, and that the program imports
	narrow    bool     // a 32-bit program
	packed    bool
	searching bool   // its files are not all searched
	cut       bool   // a file was too large to search all of it
	alone     bool   // only the executable was there to be looked at
	code      uint64 // a hash of which files it runs code of, where all of them were searched
}

// fleeting reports whether the next look may show something else though nothing has moved since.
func (s *sight) fleeting() bool { return s.fault != "" || len(s.problems) > 0 }

// onlyDecoded reports whether the process has nothing but libraries with probes.
func (s *sight) onlyDecoded() bool {
	return len(s.decoded) > 0 && len(s.problems) == 0 && len(s.others) == 0 && len(s.hints) == 0
}

// see looks at a process; k is what is known of it. ended says that it is gone, or another one has its id.
func (e *Explainer) see(t Traffic, k *told, r round) (s sight, ended bool) {
	if !t.Ended {
		if s, ended = e.seeAlive(t, k, r.search); !ended {
			e.brief.release(life{t.PID, t.Start})
			return s, false
		}
	}
	return e.seeBrief(t, r.end), true
}

func (e *Explainer) seeAlive(t Traffic, k *told, until time.Time) (s sight, ended bool) {
	exe, err := os.Open(procPath(e.Proc, t.PID, "exe"))
	switch {
	case err == nil:
		s = e.gather(t, k, exe, until)
		exe.Close()
	case errors.Is(err, fs.ErrNotExist):
	default:
		s.fault = fmt.Sprintf("its executable cannot be opened: %v", reword(err))
	}
	// What was read is about this process only if it is still there.
	p, parent, err := readProcess(e.Proc, t.PID)
	if err != nil || t.Start != 0 && p.Start != uint64(t.Start/tick) {
		return sight{}, true
	}
	if s.process == "" && s.fault == "" {
		// No executable: a thread of the kernel (they descend from 2, and run no program), or one that nobody waited for.
		if parent != 2 {
			return sight{}, true
		}
		s.fault = "it is a thread of the kernel"
	}
	return s, false
}

func (e *Explainer) gather(t Traffic, k *told, exe *os.File, until time.Time) (s sight) {
	name, err := nameOf(exe)
	if err != nil {
		s.fault = "the path of its executable cannot be read: " + err.Error()
		return s
	}
	s.pid, s.process, s.denied = t.PID, path.Base(name), e.Deny.Why(t.PID, name)
	if t.Undecoded == 0 {
		return s // nothing to explain that the kernel has not said
	}
	mappings, err := e.mappings(t.PID)
	if err != nil {
		s.fault = fmt.Sprintf("its memory map cannot be read: %v", reword(err))
		return s
	}
	s.narrow = isNarrowFile(exe)
	e.fromTable(&s, t.PID, mappings)
	e.builtIn(&s, name, exe)
	e.known(&s, t.PID, mappings)
	// Where a library is attached and bytes pass by it all the same, there may be a second one.
	if len(s.problems) == 0 && len(s.others) == 0 && (len(s.decoded) == 0 || k.grown) {
		code := codeOf(exe, mappings)
		if before := &k.sight; code != 0 && before.code == code {
			s.others, s.packed, s.cut, s.code = before.others, before.packed, before.cut, code
		} else if e.searchAll(&s, t.PID, exe, mappings, until); !s.searching {
			s.code = code
		}
	}
	// What was found in a file says more than the file's name.
	s.hints = slices.DeleteFunc(s.hints, func(h hint) bool {
		return slices.ContainsFunc(s.others, func(other string) bool { return strings.HasSuffix(other, inside+h.file) })
	})
	if len(s.decoded) > 0 {
		s.unprobed = e.imports(exe)
	}
	return s
}

// nameOf is the path of an open executable. The link in procfs may show another program by now.
func nameOf(exe *os.File) (string, error) {
	name, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(int(exe.Fd())))
	return strings.TrimSuffix(name, " (deleted)"), err
}

func isNarrowFile(exe *os.File) bool {
	head := make([]byte, 8)
	n, _ := exe.ReadAt(head, 0) // what cannot be read is not 32-bit
	return isNarrow(head[:n])
}

// codeOf tells whether a process runs code of the same files as before.
func codeOf(exe *os.File, mappings []mapping) uint64 {
	h := fnv.New64a()
	at, err := stampOf(exe)
	if err != nil {
		return 0
	}
	fmt.Fprintln(h, at)
	for _, m := range mappings {
		fmt.Fprintln(h, m.id)
	}
	return h.Sum64()
}

func (e *Explainer) mappings(pid uint32) ([]mapping, error) {
	f, err := os.Open(procPath(e.Proc, pid, "maps"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readMappings(f)
}

// fromTable finds the libraries that Spile decodes, and asks what became of their probes.
func (e *Explainer) fromTable(s *sight, pid uint32, mappings []mapping) {
	for _, m := range mappings {
		for _, lib := range e.Libraries {
			if lib.Where != SharedObject || !lib.matches(m.path) {
				continue
			}
			if s.narrow {
				add(&s.others, lib.Name)
				break
			}
			handle, err := openMapped(e.Proc, pid, m)
			if err != nil {
				add(&s.problems, fmt.Sprintf("%s is not decoded: %v", lib.Name, err))
				break
			}
			e.judge(s, Describe(e.Cache, lib, m.path, handle))
			handle.Close()
			break
		}
	}
}

// judge sorts a file by what became of its probes.
func (e *Explainer) judge(s *sight, f File) {
	if f.Problem != nil {
		add(&s.problems, fmt.Sprintf("%s is not decoded: %v", f.Library, f.Problem))
		return
	}
	if s.denied != "" {
		add(&s.problems, fmt.Sprintf("%s is not decoded: %s", f.Library, s.denied))
		return
	}
	switch known, attached, reason := e.Probe(f.ID, s.pid); {
	case attached:
		add(&s.decoded, f.Library)
	case known:
		add(&s.problems, fmt.Sprintf("%s is not decoded: %s", f.Library, cmp.Or(reason, "no probe is attached, and no reason is known")))
	default:
		add(&s.problems, fmt.Sprintf("%s (%s) was only just found; it is attached within seconds", f.Library, f.Path))
	}
}

// add appends a text once.
func add(list *[]string, text string) {
	if !slices.Contains(*list, text) {
		*list = append(*list, text)
	}
}
