package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spile/spile/agent/ship"
)

// bootToUnix is Unix time minus time since boot, now. Suspend counts in both, a step of the wall clock only in one, so
// it is measured again every so often.
func bootToUnix() time.Duration {
	var real, boot unix.Timespec
	// Neither call can fail for these clocks on a kernel that runs this program (CLOCK_BOOTTIME: 2.6.39).
	_ = unix.ClockGettime(unix.CLOCK_REALTIME, &real)
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot)
	return time.Duration(real.Nano() - boot.Nano())
}

// bootID names this boot of this machine.
func bootID() string {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return strconv.FormatInt(int64(bootToUnix()/time.Hour), 16)
	}
	return strings.TrimSpace(string(data))
}

func kernelRelease() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

// followParent ends the agent when the pipe that it inherited ends: `spile up` holds the other side, so the agent goes
// even when `up` is killed with SIGKILL and tells nobody. child reports whether there is such a pipe.
func followParent(w world, cancel context.CancelFunc) (child bool, err error) {
	value, ok := w.env("SPILE_PARENT_FD")
	if !ok {
		return false, nil
	}
	fd, err := strconv.ParseUint(value, 10, 16)
	if err != nil {
		return false, usageError{fmt.Errorf("SPILE_PARENT_FD=%q: not a file descriptor", value)}
	}
	unix.CloseOnExec(int(fd))
	pipe := os.NewFile(uintptr(fd), "parent")
	go func() {
		var b [1]byte
		for {
			if _, err := pipe.Read(b[:]); err != nil {
				cancel()
				return
			}
		}
	}()
	return true, nil
}

// credentials loads the agent's certificate and the collector's CA. The node is who the certificate says.
func credentials(c config) (*tls.Config, error) {
	if c.ca == "" || c.cert == "" || c.key == "" {
		return nil, usageError{errors.New("--ca, --cert and --key are needed to reach a collector: make them with `spile agents enroll NODE --out DIR` where the collector runs, or use `spile up` for both on one host")}
	}
	return ship.ClientTLS(c.cert, c.key, c.ca)
}

// lock makes the data directory and holds it against a second agent.
func lock(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the data directory (--data): %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("use the data directory (--data): %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("another spile-agent uses %s: stop it, or give this one a --data of its own", dir)
	}
	return f, nil
}

// installKey is what every keyed hash is made with: the same on all nodes, handed out by the collector, kept here.
type installKey struct {
	key   []byte
	epoch uint32
}

const keyBytes = 32

// loadKey returns the key that an earlier Welcome brought; none is not an error.
func loadKey(dir string) (installKey, bool, error) {
	data, err := os.ReadFile(filepath.Join(dir, "key"))
	if errors.Is(err, os.ErrNotExist) {
		return installKey{}, false, nil
	}
	if err != nil {
		return installKey{}, false, fmt.Errorf("read the install key: %w", err)
	}
	if len(data) != keyBytes+4 {
		return installKey{}, false, nil // not what save writes: the next Welcome replaces it
	}
	e := data[keyBytes:]
	return installKey{data[:keyBytes], uint32(e[0])<<24 | uint32(e[1])<<16 | uint32(e[2])<<8 | uint32(e[3])}, true, nil
}

func (k installKey) equal(other installKey) bool {
	return k.epoch == other.epoch && bytes.Equal(k.key, other.key)
}

// save keeps the key for the next start, atomically.
func (k installKey) save(dir string) error {
	data := append(append([]byte{}, k.key...), byte(k.epoch>>24), byte(k.epoch>>16), byte(k.epoch>>8), byte(k.epoch))
	temporary := filepath.Join(dir, "key.new")
	if err := os.WriteFile(temporary, data, 0o600); err != nil {
		return fmt.Errorf("keep the install key: %w", err)
	}
	if err := os.Rename(temporary, filepath.Join(dir, "key")); err != nil {
		return fmt.Errorf("keep the install key: %w", err)
	}
	return nil
}
