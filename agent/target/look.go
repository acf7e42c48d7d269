package target

import (
	"bytes"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spile/spile/bpf"
)

// watched is what the Watcher knows about one process.
type watched struct {
	Process
	parent   uint32
	exe      Verdict
	judged   bool
	denied   string              // why no probe may be in it
	space    []byte              // /proc/PID/statm at the last look: mapping a library changes it
	looks    int                 // since the address space was last read
	read     time.Time           // when that was
	files    map[bpf.FileID]held // as mapped → as handed on
	image    string              // /proc/PID/exe at the last look
	searched bool                // whether the executable was looked into
	own      held                // the executable, where it carries a library
	asked    bool                // for the libraries on demand
}

// held is a file that was handed on for a process.
type held struct {
	id     Identity
	path   string
	only   uint32
	told   time.Time // when; zero = it was not
	probed bool      // what is not is handed on again later
	lapsed bool      // it was probed, or may be now: hand it on at once
	denied bool      // it was noted, and not handed on
}

// retell is when a file that is not probed is handed on again: the host may have been short of something.
const retell = 20 * time.Second

// stale reports whether the file is to be handed on now.
func (h held) stale() bool { return !h.probed && (h.lapsed || time.Since(h.told) >= retell) }

// rereadAfter is how many unchanged looks are trusted before the address space is read anyway.
const rereadAfter = 10

// look reads one process, and hands on what is new about it. fresh says that its image has just been replaced, and
// kernel is how the kernel names it then; zero = unknown.
func (w *Watcher) look(pid uint32, fresh bool, kernel bpf.FileID) {
	if w.ours(pid) {
		return
	}
	key, parent, err := readProcess(w.config.Proc, pid)
	if err != nil {
		if p, ok := w.processes[pid]; ok {
			w.forget(p)
		}
		return
	}
	p, ok := w.processes[pid]
	if ok && p.Process != key {
		w.forget(p)
		ok = false
	}
	if !ok {
		p = &watched{Process: key, files: map[bpf.FileID]held{}}
		w.processes[pid] = p
	}
	p.parent = parent
	// The word of an exec may have been lost, or this is a child that had not come to its exec at the last look.
	image, err := os.Readlink(procPath(w.config.Proc, pid, "exe"))
	if fresh || err == nil && image != p.image {
		p.image, p.judged, p.space, p.searched, p.asked = image, false, nil, false, false
	}
	if w.config.Selection.JudgesExe() && !p.judged {
		w.judge(p, kernel)
	}
	w.judgeDenied(p)
	// A file that is attached for others lies in a denied process too, whether that is selected or not.
	if p.denied == "" && !w.config.Selection.wants(subject{pid: pid, exe: p.exe, lineage: p.lineageIn(w.processes)}) {
		w.dropAll(p)
		return
	}
	if p.denied == "" {
		w.lapsed(p)
	}
	if !p.searched {
		w.search(p)
	}
	space, err := os.ReadFile(procPath(w.config.Proc, pid, "statm"))
	p.looks++
	if err == nil && bytes.Equal(space, p.space) && p.looks < rereadAfter {
		return
	}
	p.read = time.Now()
	if err := w.read(p); err == nil {
		p.space, p.looks = space, 0
	}
	if !p.own.told.IsZero() && p.own.stale() {
		p.searched = false
	}
}

// demand hands on the libraries that are probed only where somebody asks for them.
func (w *Watcher) demand(pid uint32) {
	p, ok := w.processes[pid]
	if !ok {
		w.look(pid, false, bpf.FileID{})
		if p, ok = w.processes[pid]; !ok {
			return
		}
	}
	if p.asked {
		return
	}
	w.counts.unbound.Add(1)
	p.asked, p.space = true, nil
	w.look(pid, false, bpf.FileID{})
}

func (p *watched) lineageIn(all map[uint32]*watched) func([]uint32) bool {
	return func(roots []uint32) bool {
		const maxDepth = 64
		pid := p.PID
		for depth := 0; depth < maxDepth; depth++ {
			if slices.Contains(roots, pid) {
				return true
			}
			q, ok := all[pid]
			if !ok {
				return false
			}
			pid = q.parent
		}
		return false
	}
}

// read lists the libraries that the process maps.
func (w *Watcher) read(p *watched) error {
	f, err := os.Open(procPath(w.config.Proc, p.PID, "maps"))
	if err != nil {
		return err
	}
	defer f.Close()
	w.counts.scans.Add(1)
	mappings, err := readMappings(f)
	if err != nil {
		return err
	}
	p.asked = p.asked || w.asks(mappings)
	mapped := map[bpf.FileID]bool{}
	for _, m := range mappings {
		for _, lib := range w.config.Libraries {
			if !lib.matches(m.path) && !(p.asked && lib.OnDemand && lib.named(m.path)) {
				continue
			}
			mapped[m.id] = true
			if p.files[m.id].stale() {
				w.handOnMapped(p, lib, m)
			}
			break
		}
	}
	for as, h := range p.files {
		if !mapped[as] {
			delete(p.files, as)
			w.letGo(p, h)
		}
	}
	return nil
}

// asks reports whether a process is known to need the libraries on demand by what else it maps.
func (w *Watcher) asks(mappings []mapping) bool {
	for _, lib := range w.config.Libraries {
		if lib.OnDemand && slices.ContainsFunc(mappings, func(m mapping) bool { return lib.besides(m.path) }) {
			return true
		}
	}
	return false
}

func (w *Watcher) handOnMapped(p *watched, lib Library, m mapping) {
	handle, err := openMapped(w.config.Proc, p.PID, m)
	file := File{ID: Identity{Dev: m.id.Dev, Ino: m.id.Ino}, Library: lib.Name, Path: m.path, Problem: err}
	if err == nil {
		defer handle.Close()
		file = Describe(w.config.Cache, lib, m.path, handle)
	} else if now, _, gone := readProcess(w.config.Proc, p.PID); gone != nil || now != p.Process {
		return // a process that has ended has no files that matter
	}
	if lib.OnDemand {
		file.Only = p.PID
	}
	old := p.files[m.id]
	delete(p.files, m.id)
	p.files[m.id] = w.handOn(p, old, file)
}

// search looks into the program itself, which may carry a library.
func (w *Watcher) search(p *watched) {
	p.searched = true
	// A magic link: it leads to the inode that runs, whatever lies at its path now.
	handle, err := openRegular(unix.AT_FDCWD, procPath(w.config.Proc, p.PID, "exe"), 0)
	if err != nil {
		w.disown(p) // a kernel thread, or gone; the Explainer says where it may not be opened
		return
	}
	defer handle.Close()
	name, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(int(handle.Fd())))
	if err != nil {
		name = procPath(w.config.Proc, p.PID, "exe")
	}
	file, found := DescribeProgram(w.config.Cache, w.config.Libraries, strings.TrimSuffix(name, " (deleted)"), handle)
	if !found {
		w.disown(p)
		return
	}
	old := p.own
	p.own = held{}
	p.own = w.handOn(p, old, file)
}

func (w *Watcher) disown(p *watched) {
	own := p.own
	p.own = held{}
	w.letGo(p, own)
}

// handOnPath hands on a file of the own root on behalf of the agent.
func (w *Watcher) handOnPath(lib Library, path string, seen map[Identity]bool) {
	handle, err := openRegular(unix.AT_FDCWD, path, 0)
	if err != nil {
		return // a dangling link: no program can map it either
	}
	defer handle.Close()
	file := Describe(w.config.Cache, lib, path, handle)
	if file.Problem != nil || seen[file.ID] {
		return // a linker script or another architecture's library: no program here maps it
	}
	seen[file.ID] = true
	if !w.wellKnown[file.ID] {
		w.uses[file.ID]++
	}
	w.tellSink(Process{}, file)
}

// handOn tells the Sink of a file of a process, which knew it as h.
func (w *Watcher) handOn(p *watched, h held, f File) held {
	if !h.told.IsZero() && h.id != f.ID {
		w.letGo(p, h)
		h = held{}
	}
	if h.told.IsZero() {
		w.uses[f.ID]++
	}
	if p.denied != "" {
		return w.note(p, h, f)
	}
	if _, b := w.barredAs(f.ID); b != nil {
		f.Only = p.PID
	}
	return held{id: f.ID, path: f.Path, only: f.Only, told: time.Now(), probed: w.tellSink(p.Process, f)}
}

func (w *Watcher) tellSink(p Process, f File) bool {
	w.counts.files.Add(1)
	if f.Problem != nil {
		w.counts.filesFailed.Add(1)
	}
	return w.config.Sink.Use(p, f)
}

// letGo takes back what was handed on. The process may still hold the same file under another name of the kernel's.
func (w *Watcher) letGo(p *watched, h held) {
	if h.told.IsZero() {
		return
	}
	if h.denied {
		w.unbar(h.id)
	}
	same := !p.own.told.IsZero() && p.own.id == h.id
	for _, other := range p.files {
		same = same || other.id == h.id
	}
	if same {
		w.unuse(h.id)
		return
	}
	w.release(p.Process, h.id)
}

func (w *Watcher) release(p Process, id Identity) {
	w.unuse(id)
	w.config.Sink.Drop(p, id)
}

func (w *Watcher) unuse(id Identity) {
	if w.uses[id]--; w.uses[id] <= 0 {
		delete(w.uses, id)
	}
}

// Describe reads an open library, as it is handed on to a Sink.
func Describe(cache *Cache, lib Library, path string, handle *os.File) File {
	f := File{Library: lib.Name, Path: path}
	s, err := stampOf(handle)
	if err != nil {
		f.Problem = cannotRead(lib, path, err)
		return f
	}
	f.ID = s.id
	fresh := s.fresh()
	facts, err := cache.library(handle, s, lib)
	if err != nil {
		f.Problem = cannotRead(lib, path, err)
		return f
	}
	f.ID.BuildID = facts.BuildID
	sites, missing := lib.sites(facts.Places, facts.Inside, facts.Ahead)
	if missing != "" || slices.ContainsFunc(sites, func(at Site) bool { return at.Offset >= s.size }) {
		if whole := lengthOf(handle, cache.budget); whole > s.size {
			f.Problem = cutShort(path, s.size, whole)
			return f
		}
	}
	if missing != "" {
		f.Problem = cannotBe(lib, path, missing)
		return f
	}
	f.Sites, f.Handle = sites, handle
	f.describedBy(s, fresh, func(handle *os.File) File { return Describe(NewCache(cache.budget), lib, path, handle) })
	return f
}

func (w *Watcher) dropAll(p *watched) {
	w.disown(p)
	for as, h := range p.files {
		delete(p.files, as)
		w.letGo(p, h)
	}
	p.space, p.searched = nil, false
}

func (w *Watcher) forget(p *watched) {
	w.dropAll(p)
	delete(w.processes, p.PID)
	delete(w.mapped.asking, p.PID)
}
