package target

import "github.com/spile/spile/bpf"

// maxVerdicts bounds the memory of what the kernel was told; beyond it everything is told again.
const maxVerdicts = 16384

// judge tells the kernel whether it may watch the program of a process. Until then the kernel does not.
func (w *Watcher) judge(p *watched, kernel bpf.FileID) {
	id, exact, path, err := exeOf(w.config.Proc, p.PID)
	if err != nil {
		return // a kernel thread, or gone
	}
	// The kernel's word about another program must not decide about this one.
	if !exact && kernel.Ino == id.Ino {
		id = kernel
	}
	p.exe, p.judged = w.config.Selection.JudgeExe(path), true
	w.tell(id, p.exe)
}

// tell hands a verdict to the kernel, once.
func (w *Watcher) tell(id bpf.FileID, v Verdict) {
	old, told := w.verdicts[id]
	if told && old == v {
		return
	}
	// What was never told is not watched, so "no" need not be said where a yes is asked for. Programs come and go
	// by the thousand on a build host, and the kernel's table is finite.
	if !told && !v.Include && w.config.Selection.Include.Exe {
		return
	}
	if len(w.verdicts) >= maxVerdicts {
		clear(w.verdicts)
	}
	if err := w.config.SetExe(id, v.Include, v.Exclude); err != nil {
		w.counts.verdictsLost.Add(1)
		delete(w.verdicts, id)
		return
	}
	w.verdicts[id] = v
}
