package target

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spile/spile/bpf"
)

// Process names a process for good: its id, and its start in clock ticks since boot.
type Process struct {
	PID   uint32
	Start uint64
}

// ErrNoProcess says that the process is gone.
var ErrNoProcess = errors.New("no such process")

// readProcess reads /proc/PID/stat. The command in parentheses may hold spaces and parentheses itself.
func readProcess(proc string, pid uint32) (p Process, parent uint32, err error) {
	text, err := os.ReadFile(procPath(proc, pid, "stat"))
	if err != nil {
		return Process{}, 0, fmt.Errorf("%w: %d", ErrNoProcess, pid)
	}
	_, rest, ok := cutLast(text, ')')
	fields := strings.Fields(rest)
	if !ok || len(fields) < 20 {
		return Process{}, 0, fmt.Errorf("read /proc/%d/stat: it is malformed", pid)
	}
	ppid, err1 := strconv.ParseUint(fields[1], 10, 32)
	start, err2 := strconv.ParseUint(fields[19], 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		return Process{}, 0, fmt.Errorf("read /proc/%d/stat: %w", pid, err)
	}
	return Process{PID: pid, Start: start}, uint32(ppid), nil
}

func cutLast(text []byte, sep byte) (before, after string, ok bool) {
	i := bytes.LastIndexByte(text, sep)
	if i < 0 {
		return "", "", false
	}
	return string(text[:i]), string(text[i+1:]), true
}

func procPath(proc string, pid uint32, name string) string {
	return filepath.Join(proc, strconv.FormatUint(uint64(pid), 10), name)
}

// allPIDs lists the processes that procfs shows.
func allPIDs(proc string) ([]uint32, error) {
	d, err := os.Open(proc)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", proc, err)
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", proc, err)
	}
	pids := make([]uint32, 0, len(names))
	for _, name := range names {
		if pid, err := strconv.ParseUint(name, 10, 31); err == nil {
			pids = append(pids, uint32(pid))
		}
	}
	return pids, nil
}

// families adds to each process its descendants; later ones inherit in the kernel.
func families(proc string, roots []uint32) ([]uint32, error) {
	pids, err := allPIDs(proc)
	if err != nil {
		return nil, err
	}
	children := map[uint32][]uint32{}
	alive := map[uint32]bool{}
	for _, pid := range pids {
		if p, parent, err := readProcess(proc, pid); err == nil {
			alive[p.PID] = true
			children[parent] = append(children[parent], p.PID)
		}
	}
	var family []uint32
	member := map[uint32]bool{}
	for _, root := range roots {
		if !alive[root] {
			return nil, fmt.Errorf("target pid=%d: there is no such process; ps -e shows which there are (in a container, share the host's process ids)", root)
		}
		queue := []uint32{root}
		for len(queue) > 0 {
			pid := queue[0]
			queue = queue[1:]
			if !member[pid] {
				member[pid] = true
				family = append(family, pid)
				queue = append(queue, children[pid]...)
			}
		}
	}
	return family, nil
}

// mapping is an executable file-backed line of /proc/PID/maps.
type mapping struct {
	span    string // "start-end" as map_files names it
	id      bpf.FileID
	path    string
	deleted bool
}

// maxMapLines bounds the reading of one address space (vm.max_map_count is 65530 by default).
const maxMapLines = 1 << 17

// readMappings lists the files that are mapped executable, once each.
func readMappings(r io.Reader) ([]mapping, error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 8<<10), 64<<10)
	seen := map[bpf.FileID]bool{}
	var found []mapping
	for n := 0; n < maxMapLines && lines.Scan(); n++ {
		m, ok := parseMapping(lines.Text())
		if ok && !seen[m.id] {
			seen[m.id] = true
			found = append(found, m)
		}
	}
	return found, lines.Err()
}

func parseMapping(line string) (mapping, bool) {
	span, rest, _ := strings.Cut(line, " ")
	perms, rest, _ := strings.Cut(rest, " ")
	if len(perms) != 4 || perms[2] != 'x' {
		return mapping{}, false
	}
	_, rest, _ = strings.Cut(rest, " ") // offset
	device, rest, _ := strings.Cut(rest, " ")
	inode, path, _ := strings.Cut(rest, " ")
	path = strings.TrimLeft(path, " ")
	major, minor, ok := strings.Cut(device, ":")
	ma, err1 := strconv.ParseUint(major, 16, 32)
	mi, err2 := strconv.ParseUint(minor, 16, 32)
	ino, err3 := strconv.ParseUint(inode, 10, 64)
	if !ok || errors.Join(err1, err2, err3) != nil || ino == 0 || !strings.HasPrefix(path, "/") {
		return mapping{}, false
	}
	m := mapping{span: span, id: bpf.FileID{Dev: ma<<20 | mi, Ino: ino}}
	path, m.deleted = strings.CutSuffix(path, " (deleted)")
	m.path = unescape(path)
	return m, true
}

// unescape undoes the octal escapes of procfs (\012 and, in mount tables, \040 \011 \134).
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
