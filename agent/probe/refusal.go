package probe

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"golang.org/x/sys/unix"
)

// refusal is a failure for a person, in one line: what, why, and what to do. The cause is there for errors.Is.
type refusal struct {
	what, why, remedy string
	cause             error
}

func (r *refusal) Error() string { return r.what + ": " + r.why + "; " + r.remedy }
func (r *refusal) Unwrap() error { return r.cause }

// noSuchInstruction is ENOTSUPP, which the kernel keeps for itself and hands out all the same.
const noSuchInstruction = unix.Errno(524)

// attempt is what was tried when the kernel refused.
type attempt struct {
	what  string // "attach SSL_read to /lib/libssl.so.3"
	multi bool
	only  uint32 // the process, 0 = all
}

// refused names the cause and the remedy. A bare errno helps nobody.
func (a attempt) refused(err error) error {
	r := &refusal{what: a.what, cause: err}
	is := func(candidates ...error) bool {
		for _, c := range candidates {
			if errors.Is(err, c) {
				return true
			}
		}
		return false
	}
	switch {
	case is(unix.EPERM, unix.EACCES) && a.multi:
		r.why, r.remedy = "the kernel does not let this agent set probes", "give it CAP_BPF and CAP_PERFMON"
	case is(unix.EPERM, unix.EACCES):
		r.why, r.remedy = "the kernel does not let this agent set probes", "before Linux 6.6 it needs CAP_SYS_ADMIN as well"
	case a.only != 0 && is(fs.ErrNotExist, unix.ESRCH):
		r.why, r.remedy = fmt.Sprintf("process %d is gone", a.only), "nothing needs to be done"
	case is(fs.ErrNotExist):
		r.why, r.remedy = "the open file is not to be found under /proc/self/fd", "mount procfs at /proc where the agent runs"
	case is(unix.EINVAL):
		r.why, r.remedy = "the kernel finds no code at this place", "reinstall the file, which is damaged or of an unknown build"
	case is(noSuchInstruction, unix.ENOTSUP, unix.ENOEXEC):
		r.why, r.remedy = "the kernel cannot step over the instruction at this place", "use another build of the file"
	case is(unix.EIO, unix.EBADF):
		r.why, r.remedy = "its file system does not let the kernel read pages of it", "put the file on a local file system"
	case is(unix.EMFILE):
		r.why, r.remedy = "the agent has too many files open", "raise its LimitNOFILE"
	case is(unix.ENFILE):
		r.why, r.remedy = "this host has too many files open", "raise fs.file-max"
	case is(unix.ENOMEM, unix.E2BIG, unix.ENOSPC):
		r.why, r.remedy = "the kernel has no memory for it", "raise the memory limit of the agent"
	default:
		r.why, r.remedy = "the kernel says: "+root(err), "see which file systems and security modules the file is under, and restart the agent"
	}
	return r
}

// root is the text of the innermost cause, in one line.
func root(err error) string {
	for inner := errors.Unwrap(err); inner != nil; inner = errors.Unwrap(err) {
		err = inner
	}
	return strings.Join(strings.Fields(err.Error()), " ")
}

// passing reports whether a failure may be over soon, so that waiting long to try again would lose calls for nothing.
func passing(err error) bool {
	for _, errno := range []unix.Errno{unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.EAGAIN, unix.EBUSY, unix.EINTR} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// oneLine is for what others say: paths are bytes of the watched programs' choosing.
func oneLine(err error) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return '?'
		}
		return c
	}, strings.ReplaceAll(err.Error(), "\n", "; "))
}
