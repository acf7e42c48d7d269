package target

import (
	"bytes"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/spile/spile/bpf"
)

// watched is what the Watcher knows about one process.
type watched struct {
	Process
	parent uint32
	exe    Verdict
	judged bool
	space  []byte                  // /proc/PID/statm at the last look: mapping a library changes it
	looks  int                     // since the address space was last read
	files  map[bpf.FileID]Identity // as mapped → as handed on
}

// rereadAfter is how many unchanged looks are trusted before the address space is read anyway.
const rereadAfter = 10

// look reads one process, and hands on what is new about it. fresh says that its image has just been replaced, and
// kernel is how the kernel names it then; zero = unknown.
func (w *Watcher) look(pid uint32, fresh bool, kernel bpf.FileID) {
	if pid == w.self {
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
		p = &watched{Process: key, files: map[bpf.FileID]Identity{}}
		w.processes[pid] = p
	}
	p.parent = parent
	if fresh {
		p.judged, p.space = false, nil
	}
	if w.config.Selection.JudgesExe() && !p.judged {
		w.judge(p, kernel)
	}
	if !w.config.Selection.wants(subject{pid: pid, exe: p.exe, lineage: p.lineageIn(w.processes)}) {
		w.dropAll(p)
		return
	}
	space, err := os.ReadFile(procPath(w.config.Proc, pid, "statm"))
	p.looks++
	if err == nil && bytes.Equal(space, p.space) && p.looks < rereadAfter {
		return
	}
	if err := w.read(p); err == nil {
		p.space, p.looks = space, 0
	}
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
	mapped := map[bpf.FileID]bool{}
	for _, m := range mappings {
		for _, lib := range w.config.Libraries {
			if !lib.matches(m.path) {
				continue
			}
			mapped[m.id] = true
			if _, ok := p.files[m.id]; !ok {
				w.handOnMapped(p, lib, m)
			}
			break
		}
	}
	for id, real := range p.files {
		if !mapped[id] {
			delete(p.files, id)
			w.config.Sink.Drop(p.Process, real)
		}
	}
	return nil
}

func (w *Watcher) handOnMapped(p *watched, lib Library, m mapping) {
	handle, err := openMapped(w.config.Proc, p.PID, m)
	if err != nil {
		// A process that has ended meanwhile has no files that matter.
		if now, _, gone := readProcess(w.config.Proc, p.PID); gone != nil || now != p.Process {
			return
		}
		id := Identity{Dev: m.id.Dev, Ino: m.id.Ino}
		p.files[m.id] = id
		w.handOn(p.Process, File{ID: id, Library: lib.Name, Path: m.path, Problem: err})
		return
	}
	defer handle.Close()
	file := Describe(w.config.Cache, lib, m.path, handle)
	p.files[m.id] = file.ID
	w.handOn(p.Process, file)
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
	w.handOn(Process{}, file)
}

func (w *Watcher) handOn(p Process, f File) {
	w.counts.files.Add(1)
	if f.Problem != nil {
		w.counts.filesFailed.Add(1)
	}
	w.config.Sink.Use(p, f)
}

// Describe reads an open library, as it is handed on to a Sink.
func Describe(cache *Cache, lib Library, path string, handle *os.File) File {
	f := File{Library: lib.Name, Path: path}
	s, err := stampOf(handle)
	if err != nil {
		f.Problem = err
		return f
	}
	f.ID = s.id
	facts, err := cache.library(handle, s, lib)
	if err != nil {
		f.Problem = fmt.Errorf("read %s: %w; its calls stay unseen", path, err)
		return f
	}
	f.ID.BuildID = facts.BuildID
	sites, missing := lib.sites(facts.Places)
	if missing != "" {
		f.Problem = fmt.Errorf("read %s: it exports no %s, so it is not the %s that its name says", path, missing, lib.Name)
		return f
	}
	f.Sites, f.Handle = sites, handle
	return f
}

func (w *Watcher) dropAll(p *watched) {
	for id, real := range p.files {
		delete(p.files, id)
		w.config.Sink.Drop(p.Process, real)
	}
	p.space = nil
}

func (w *Watcher) forget(p *watched) {
	w.dropAll(p)
	delete(w.processes, p.PID)
}
