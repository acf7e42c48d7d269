package origin

import (
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// tick is USER_HZ, in which procfs counts: 100 a second on every architecture we build for.
const tick = 10 * time.Millisecond

// maxCgroupBytes bounds what is read of a file whose content the runtime chose.
const maxCgroupBytes = 64 << 10

// read asks procfs about a process. It fails when the process is gone, or when its id belongs to another one now.
func (c *Cache) read(tgid uint32, start time.Duration) (Process, Placement, error) {
	dir := filepath.Join(c.config.Proc, strconv.FormatUint(uint64(tgid), 10))
	if err := sameStart(dir, start); err != nil {
		return Process{}, Placement{}, err
	}
	p := Process{Name: executable(dir), PID: tgid}
	var place Placement
	if text, err := readSome(filepath.Join(dir, "cgroup"), maxCgroupBytes); err == nil {
		place = ParseCgroup(text)
		p.Container, p.PodUID = place.Container, place.PodUID
	}
	if c.config.BuildID != nil {
		p.BuildID = c.config.BuildID(tgid)
	}
	// What was read is about this process only if it is still there.
	return p, place, sameStart(dir, start)
}

func sameStart(dir string, start time.Duration) error {
	text, err := readSome(filepath.Join(dir, "stat"), 4<<10)
	if err != nil {
		return fmt.Errorf("read process: %w", err)
	}
	// The command, in parentheses, may hold anything.
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) < 20 {
		return fmt.Errorf("read process: %s/stat is malformed", dir)
	}
	ticks, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return fmt.Errorf("read process: %w", err)
	}
	if ticks != uint64(start/tick) {
		return fmt.Errorf("read process: %s is another process now", dir)
	}
	return nil
}

// executable is the file name of the program: unlike comm, the program does not choose it and threads share it.
func executable(dir string) string {
	if name, err := os.Readlink(filepath.Join(dir, "exe")); err == nil {
		name = strings.TrimSuffix(name, " (deleted)")
		// runc and others run from memory; the link shows no program.
		if !strings.HasPrefix(name, "/memfd:") {
			return printable(path.Base(name))
		}
	}
	text, err := readSome(filepath.Join(dir, "comm"), 64)
	if err != nil {
		return ""
	}
	return printable(strings.TrimSuffix(text, "\n"))
}

// printable keeps a program from writing to a terminal by its name.
func printable(name string) string {
	const maxName = 128
	name = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\u2028' || r == '\u2029' || r >= 0x80 && r < 0xa0 || r == '\ufffd' {
			return '?'
		}
		return r
	}, name)
	return strings.ToValidUTF8(name[:min(len(name), maxName)], "")
}

func readSome(name string, limit int64) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, limit))
	return string(text), err
}
