package target

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/spile/spile/bpf"
)

// Verdict says whether an executable matches the included and the excluded patterns.
type Verdict struct {
	Include, Exclude bool
}

// JudgesExe reports whether executables matter to the selection at all.
func (s *Selection) JudgesExe() bool { return s.Include.Exe || s.Exclude.Exe }

// JudgeExe compares an executable's path with the patterns. A pattern without "/" is compared with the file name; in
// one with "/" a "*" also spans directories, so that */nginx is nginx wherever it lies.
func (s *Selection) JudgeExe(exe string) Verdict {
	v := s.links[exe]
	return Verdict{
		Include: v.Include || anyMatch(s.spec.Include.Exes, exe),
		Exclude: v.Exclude || anyMatch(s.spec.Exclude.Exes, exe),
	}
}

func anyMatch(patterns []string, exe string) bool {
	for _, pattern := range patterns {
		subject := exe
		if !strings.Contains(pattern, "/") {
			subject = path.Base(exe)
		}
		if ok, _ := path.Match(flat(pattern), flat(subject)); ok {
			return true
		}
	}
	return false
}

// flat hides the separators from path.Match, whose "*" stops at them.
func flat(s string) string { return strings.ReplaceAll(s, "/", "\x00") }

// exeOf reads which program a process runs, as the kernel names it and as people do.
func exeOf(proc string, pid uint32) (id bpf.FileID, exact bool, path string, err error) {
	link := procPath(proc, pid, "exe")
	f, err := os.Open(link)
	if err != nil {
		return bpf.FileID{}, false, "", fmt.Errorf("open the executable of process %d: %w", pid, reword(err))
	}
	defer f.Close()
	// The path of the open file, not of the link: the process may have run another program meanwhile.
	name, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(int(f.Fd())))
	if err != nil {
		return bpf.FileID{}, false, "", fmt.Errorf("read the path of the executable of process %d: %w", pid, err)
	}
	id, exact, err = kernelID(proc, pid, f)
	return id, exact, strings.TrimSuffix(name, " (deleted)"), err
}

// expand finds the programs in this mount namespace that the patterns name, so that one is judged before it first
// runs. It also follows links: a process is judged by the path in /proc/PID/exe, where /usr/bin/python3 is never seen.
func (s *Selection) expand() {
	s.links = map[string]Verdict{}
	s.installed = map[bpf.FileID]Verdict{}
	var files []string
	add := func(patterns []string, v Verdict) {
		for _, name := range globExes(patterns) {
			real, err := filepath.EvalSymlinks(name)
			if err != nil {
				continue
			}
			old := s.links[real]
			s.links[real] = Verdict{old.Include || v.Include, old.Exclude || v.Exclude}
			files = append(files, real)
		}
	}
	add(s.spec.Include.Exes, Verdict{Include: true})
	add(s.spec.Exclude.Exes, Verdict{Exclude: true})
	for _, real := range files {
		if id, err := identify(real); err == nil {
			s.installed[id] = s.JudgeExe(real)
		}
	}
}

func globExes(patterns []string) []string {
	var names []string
	for _, pattern := range patterns {
		places := []string{pattern}
		if name := strings.TrimPrefix(pattern, "*/"); !strings.Contains(name, "/") {
			places = nil
			for _, dir := range []string{"/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin", "/bin", "/sbin"} {
				places = append(places, filepath.Join(dir, name))
			}
		}
		for _, place := range places {
			// ParseSpec has checked the pattern; nothing found is no error, the program may be installed later.
			matches, _ := filepath.Glob(place)
			names = append(names, matches...)
		}
	}
	return names
}

func identify(name string) (bpf.FileID, error) {
	f, err := openRegular(unix.AT_FDCWD, name, 0)
	if err != nil {
		return bpf.FileID{}, err
	}
	defer f.Close()
	id, _, err := kernelID("/proc", uint32(os.Getpid()), f)
	return id, err
}
