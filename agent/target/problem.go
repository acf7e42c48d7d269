package target

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Problem is a failure for a person, in one line: what, why, and what to do. The cause is there for errors.Is, and is
// not part of the text.
type Problem struct {
	What, Why, Remedy string
	Cause             error
}

func (p *Problem) Error() string { return p.What + ": " + p.Why + "; " + p.Remedy }
func (p *Problem) Unwrap() error { return p.Cause }

// IsAny reports whether one of some errors is behind err.
func IsAny(err error, candidates ...error) bool {
	return slices.ContainsFunc(candidates, func(c error) bool { return errors.Is(err, c) })
}

var (
	errNotRegular = errors.New("it is not a regular file")
	// ErrChanged says that a path leads to another file than the one that was mapped.
	ErrChanged = errors.New("the path now leads to another file")
)

const toMapFiles = "give the agent CAP_CHECKPOINT_RESTORE, or restart the program"

// cannotOpen is about a file that a process maps.
func cannotOpen(m mapping, pid uint32, err error) error {
	p := &Problem{What: fmt.Sprintf("open %s of process %d", m.path, pid), Cause: err}
	is := func(candidates ...error) bool { return IsAny(err, candidates...) }
	switch {
	case is(unix.EMFILE):
		p.Why, p.Remedy = "the agent has too many files open", "raise its LimitNOFILE"
	case is(unix.ENFILE):
		p.Why, p.Remedy = "this host has too many files open", "raise fs.file-max"
	case m.deleted && is(fs.ErrPermission):
		p.Why, p.Remedy = "it was deleted or replaced after the process mapped it, and only the kernel still has it", toMapFiles
	case m.deleted:
		p.Why, p.Remedy = "it was deleted or replaced, and is not mapped there any more", "nothing needs to be done"
	case is(ErrChanged):
		p.Why, p.Remedy = "its path leads to another file by now", toMapFiles
	case is(errNotRegular):
		p.Why, p.Remedy = "its path does not lead to a regular file", toMapFiles
	case is(fs.ErrNotExist, unix.ENOTDIR):
		p.Why, p.Remedy = "nothing is at its path any more", toMapFiles
	case is(unix.ENOSYS):
		p.Why, p.Remedy = "the system call openat2 is missing or blocked", "let seccomp pass openat2, or give the agent CAP_CHECKPOINT_RESTORE"
	case is(unix.ELOOP, unix.EXDEV):
		p.Why, p.Remedy = "its path leads out of the root of the process", "give the agent CAP_CHECKPOINT_RESTORE"
	case is(fs.ErrPermission):
		p.Why, p.Remedy = "the agent may not open files of this process", "give it CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH"
	default:
		p.Why, p.Remedy = Innermost(err), "see the file system that it is on"
	}
	return p
}

// cannotRead is about an open file whose functions are not to be had.
func cannotRead(lib Library, path string, err error) error {
	p := &Problem{What: "read " + path, Cause: err}
	switch {
	case errors.Is(err, ErrNotELF):
		p.Why, p.Remedy = "it is not a 64-bit little-endian program file, the only kind that is decoded", "run a 64-bit build of the program"
	case errors.Is(err, ErrBudget):
		p.Why, p.Remedy = "finding its functions takes more reading or time than a library is given", "use the distribution's build of "+lib.Name
	default:
		p.Why, p.Remedy = Innermost(err), "see the file system that it is on"
	}
	return p
}

// cannotBe is about a file that has the name of a library and not its functions.
func cannotBe(lib Library, path, missing string) error {
	return &Problem{
		What: "read " + path, Why: fmt.Sprintf("it exports no %s, so it is not the %s that its name says", missing, lib.Name),
		Remedy: "nothing needs to be done, unless the program talks TLS with it: then use a build that exports it",
	}
}

// cutShort is about a file that ends before what it says it holds, as a copy does that ran out of room.
func cutShort(path string, size, whole uint64) error {
	return &Problem{
		What: "read " + path, Why: fmt.Sprintf("it is cut short: %d of %d bytes are there", size, whole),
		Remedy: "reinstall it",
	}
}

// lengthOf is how long a program file is by its own account, at the least; 0 = it gives none.
func lengthOf(r io.ReaderAt, b Budget) uint64 {
	im, err := openImage(newBounded(r, b))
	if err != nil {
		return 0
	}
	length := uint64(0)
	for _, s := range im.segments {
		if end := s.offset + s.size; s.kind == uint32(elf.PT_LOAD) && end >= s.offset {
			length = max(length, end)
		}
	}
	return length
}

// Innermost is the text of the first cause, in one line.
func Innermost(err error) string {
	for inner := errors.Unwrap(err); inner != nil; inner = errors.Unwrap(err) {
		err = inner
	}
	return strings.Join(strings.Fields(err.Error()), " ")
}
