package probe

import (
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"

	"github.com/spile/spile/agent/target"
)

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
	r := &target.Problem{What: a.what, Cause: err}
	is := func(candidates ...error) bool { return target.IsAny(err, candidates...) }
	switch {
	case is(unix.EPERM, unix.EACCES) && a.multi:
		r.Why, r.Remedy = "the kernel does not let this agent set probes", "give it CAP_BPF and CAP_PERFMON"
	case is(unix.EPERM, unix.EACCES):
		r.Why, r.Remedy = "the kernel does not let this agent set probes", "before Linux 6.6 it needs CAP_SYS_ADMIN as well"
	case a.only != 0 && is(fs.ErrNotExist, unix.ESRCH):
		r.Why, r.Remedy = fmt.Sprintf("process %d is gone", a.only), "nothing needs to be done"
	case is(fs.ErrNotExist):
		r.Why, r.Remedy = "the open file is not to be found under /proc/self/fd", "mount procfs at /proc where the agent runs"
	case is(unix.EINVAL):
		r.Why, r.Remedy = "the kernel finds no code at this place", "reinstall the file, which is damaged or of an unknown build"
	case is(noSuchInstruction, unix.ENOTSUP, unix.ENOEXEC):
		r.Why, r.Remedy = "the kernel cannot step over the instruction at this place", "use another build of the file"
	case is(unix.EIO, unix.EBADF):
		r.Why, r.Remedy = "its file system does not let the kernel read pages of it", "put the file on a local file system"
	case is(unix.EMFILE):
		r.Why, r.Remedy = "the agent has too many files open", "raise its LimitNOFILE"
	case is(unix.ENFILE):
		r.Why, r.Remedy = "this host has too many files open", "raise fs.file-max"
	case is(unix.ENOMEM, unix.E2BIG, unix.ENOSPC):
		r.Why, r.Remedy = "the kernel has no memory for it", "raise the memory limit of the agent"
	default:
		r.Why, r.Remedy = "the kernel says: "+target.Innermost(err), "see which file systems and security modules the file is under, and restart the agent"
	}
	return r
}

// passing reports whether a failure may be over soon, so that waiting long to try again would lose calls for nothing.
func passing(err error) bool {
	return target.IsAny(err, unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.EAGAIN, unix.EBUSY, unix.EINTR)
}
