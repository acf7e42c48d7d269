package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	diagnose "github.com/spile/spile/agent/doctor"
	"github.com/spile/spile/agent/probe"
	"github.com/spile/spile/agent/target"
)

const (
	// upData is where the agent of `spile up` keeps its data, unless that was told otherwise.
	upData = "/var/lib/spile/agent"
	// maxLearnedBytes is more than 4,096 builds take.
	maxLearnedBytes = 16 << 20
)

// kept is what an agent has kept in its data directory, for doctor to tell.
type kept struct {
	dir     string
	there   bool // some file is
	pid     int  // of the agent that runs with it; 0 = none
	looked  []string
	learned map[string]lesson // by build id
	denied  []probe.Denial
	err     error
}

// lesson is what was learned of a build, as probes.json has it.
type lesson struct {
	BuildID  string            `json:"build_id"`
	Survived bool              `json:"survived"`
	Inner    map[string]string `json:"inner"` // "agreed" or "disagreed" by place
}

// dataDirs are where the data of an agent may be: where a person says, else in the usual places.
func dataDirs(c config) []string {
	if c.data == defaultData {
		return []string{c.data, upData}
	}
	return []string{c.data}
}

// lookUp finds the data directory to tell of: the one given, or of the usual ones that of an agent that runs, or has run.
func lookUp(dirs ...string) kept {
	var best kept
	for i, dir := range dirs {
		if k := look(dir); i == 0 || k.pid > 0 && best.pid == 0 || k.there && !best.there && best.pid == 0 {
			best = k
		}
	}
	best.looked = dirs
	return best
}

func look(dir string) kept {
	k := kept{dir: dir, learned: map[string]lesson{}, pid: whoLocks(filepath.Join(dir, "lock"))}
	for _, name := range []string{"lock", probe.LearnedFile, probe.DeniedFile} {
		_, err := os.Lstat(filepath.Join(dir, name))
		k.there = k.there || err == nil
	}
	list, err := readLearned(filepath.Join(dir, probe.LearnedFile))
	for _, l := range list {
		k.learned[l.BuildID] = l
	}
	k.denied, _ = probe.Denials(dir) // its error is a check of its own
	k.err = err
	return k
}

func readLearned(path string) ([]lesson, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	defer f.Close()
	var all struct{ Builds []lesson }
	if err := json.NewDecoder(io.LimitReader(f, maxLearnedBytes)).Decode(&all); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return all.Builds, nil
}

// whoLocks is the process that holds a lock on a file, 0 = nobody, or it cannot be told. Trying the lock could keep an agent
// from starting at that moment, so the kernel's list is read.
func whoLocks(path string) int {
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		return 0
	}
	locks, err := os.ReadFile(filepath.Join(procfs, "locks"))
	if err != nil {
		return 0
	}
	inode := ":" + strconv.FormatUint(st.Ino, 10)
	for line := range strings.Lines(string(locks)) {
		// "1: FLOCK  ADVISORY  WRITE 4242 08:01:1234 0 EOF"
		f := strings.Fields(line)
		if len(f) >= 6 && f[1] == "FLOCK" && f[3] == "WRITE" && strings.HasSuffix(f[5], inode) {
			if pid, err := strconv.Atoi(f[4]); err == nil && pid > 0 {
				return pid
			}
		}
	}
	return 0
}

// check says where was looked, and what was there.
func (k kept) check() diagnose.Check {
	c := diagnose.Check{Name: "data", Verdict: diagnose.OK}
	places := strings.Join(k.looked, " and in ")
	switch {
	case k.err != nil:
		c.Verdict, c.Detail = diagnose.Warn, k.err.Error()
		c.Remedy = "remove the file: what was learned of libraries is then learned again"
	case !k.there:
		c.Detail = "looked in " + places + ": no agent has kept anything there, so probe_sites says what is possible only; --data DIR looks elsewhere"
	case k.pid > 0:
		c.Detail = fmt.Sprintf("looked in %s: the agent that runs (process %d) keeps its data in %s and knows %d builds", places, k.pid, k.dir, len(k.learned))
	default:
		c.Detail = fmt.Sprintf("looked in %s: no agent runs with %s; the last one knew %d builds", places, k.dir, len(k.learned))
	}
	return c
}

// inUse says which place of a function the agent uses, beside those that are possible.
func (k kept) inUse(f target.File, s target.Site) string {
	if !k.there {
		return ""
	}
	for _, d := range k.denied {
		if d.File == nil && d.BuildID == f.ID.BuildID || d.File != nil && d.Path == f.Path {
			return "none: it is denied since " + d.When.Format("2006-01-02 15:04")
		}
	}
	known, is := k.learned[f.ID.BuildID]
	switch {
	case f.ID.BuildID == "":
		return "not kept: the file has no build id"
	case !is:
		return "nothing so far: no program used this build"
	case s.Inner == nil:
		return "this place"
	}
	switch known.Inner[fmt.Sprintf("%#x %s %s", s.Inner.Offset, s.Inner.Enter, s.Inner.Exit)] {
	case "agreed":
		return "the inner place"
	case "disagreed":
		return "this place; the inner one showed other calls, and is not used: see inner_place"
	}
	return "this place; the inner one is used once 16 live calls have agreed"
}
