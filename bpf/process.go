package bpf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// Process is one process of the host, as it runs now.
type Process struct {
	TGID  uint32
	Start time.Duration // since boot: with TGID it names a process for good
	Exe   FileID        // zero for a kernel thread
	NetNS uint32
}

// attachProcesses hooks exec, fork, exit and fatal signals, then finds the descendants that selected processes already have.
func (o *Objects) attachProcesses(selector Selector) error {
	for _, hook := range []struct{ tracepoint, program string }{
		{"sched_process_exit", "process_exit"}, {"sched_process_fork", "process_fork"}, {"sched_process_exec", "process_exec"},
		{"signal_deliver", "signal_deliver"},
	} {
		l, err := attachRaw(hook.tracepoint)(o.programs[hook.program])
		if err != nil {
			return fmt.Errorf("attach %s: %w", hook.tracepoint, err)
		}
		o.links = append(o.links, l)
	}
	return o.selectDescendants(selector)
}

// selectDescendants runs until a listing adds nothing: a child may be born between a listing and its verdict.
func (o *Objects) selectDescendants(selector Selector) error {
	verdicts := map[uint32]uint8{}
	for _, pid := range selector.Include.PIDs {
		verdicts[pid] |= verdictInclude
	}
	for _, pid := range selector.Exclude.PIDs {
		verdicts[pid] |= verdictExclude
	}
	for added := len(verdicts) > 0; added; {
		added = false
		list, err := o.list()
		if err != nil {
			return err
		}
		for again := true; again; {
			again = false
			for _, p := range list {
				if more := verdicts[p.Parent] &^ verdicts[p.Tgid]; more != 0 {
					verdicts[p.Tgid] |= more
					if err := addVerdict(o.maps["select_pid"], p.Tgid, more); err != nil {
						return fmt.Errorf("select the children of process %d: %w", p.Parent, err)
					}
					added, again = true, true
				}
			}
		}
	}
	return nil
}

// Processes lists what runs now within the selected namespaces and processes.
func (o *Objects) Processes() ([]Process, error) {
	list, err := o.list()
	if err != nil {
		return nil, err
	}
	var processes []Process
	for _, p := range list {
		if _, in := o.netns[p.Netns]; o.netns != nil && !in {
			continue
		}
		if p.Ino == 0 || p.Tgid == p.Reader || o.pids && !o.selectsPID(p.Tgid) {
			continue
		}
		processes = append(processes, Process{
			TGID: p.Tgid, Start: time.Duration(p.Start), Exe: FileID{p.Dev, p.Ino}, NetNS: p.Netns,
		})
	}
	return processes, nil
}

func (o *Objects) selectsPID(tgid uint32) bool {
	var verdict uint8
	err := o.maps["select_pid"].Lookup(tgid, &verdict)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return !o.includesPIDs
	}
	return err == nil && verdict&verdictExclude == 0 && (verdict&verdictInclude != 0 || !o.includesPIDs)
}

// self is this process as the kernel numbers it, which a container does not know.
func (o *Objects) self() (uint32, error) {
	list, err := o.list()
	if err != nil {
		return 0, err
	}
	if len(list) == 0 {
		return 0, errors.New("list processes: the kernel named none")
	}
	return list[0].Reader, nil
}

func (o *Objects) list() ([]procProcess, error) {
	raw, err := iterate(o.programs["list_processes"])
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	list := make([]procProcess, len(raw)/binary.Size(procProcess{}))
	if err := binary.Read(bytes.NewReader(raw), binary.NativeEndian, list); err != nil {
		return nil, fmt.Errorf("decode the list of processes: %w", err)
	}
	return list, nil
}

// iterate runs an iterator once and returns what it wrote.
func iterate(program *ebpf.Program) ([]byte, error) {
	l, err := link.AttachIter(link.IterOptions{Program: program})
	if err != nil {
		return nil, fmt.Errorf("attach the iterator: %w", err)
	}
	defer l.Close()
	r, err := l.Open()
	if err != nil {
		return nil, fmt.Errorf("open the iterator: %w", err)
	}
	defer r.Close()
	return io.ReadAll(r)
}
