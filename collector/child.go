package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spile/spile/collector/cli"
)

const (
	// stopGrace is how long an agent may take to detach before it is killed; the kernel then detaches for it.
	stopGrace   = 10 * time.Second
	maxRestarts = 5
	firstPause  = time.Second
	maxPause    = 16 * time.Second
	// healthyAfter forgives earlier restarts.
	healthyAfter = time.Minute
	maxLogLine   = 8 << 10
)

// child keeps one spile-agent running. Three things tie it to this process: the kernel kills it when the thread that
// started it ends (PR_SET_PDEATHSIG), it reads end-of-file from a pipe whose other end only we hold, and it gets SIGTERM
// at an orderly end. The pipe also covers a grandchild and an agent that changed its credentials, which clears the signal.
type child struct {
	path string
	args []string
	env  []string
	log  io.Writer
	// worked tells whether an agent has ever reported what it is hooked to. Reaching the collector is not enough: the agent does
	// that first, and learns only then whether the kernel lets it in.
	worked func() bool
	say    func(format string, args ...any)
	pause  time.Duration
}

// errGaveUp says that the agent cannot run here; the text is its own.
var errGaveUp = errors.New("the agent does not run")

// keep runs the agent until ctx ends; it returns early only when restarting is pointless.
func (c *child) keep(ctx context.Context) error {
	restarts, pause := 0, c.pause
	for {
		started := time.Now()
		last, err := c.once(ctx)
		if ctx.Err() != nil {
			return nil
		}
		var exit *exec.ExitError
		code := -1
		if errors.As(err, &exit) {
			code = exit.ExitCode()
		} else if err == nil {
			code = 0
		}
		switch {
		case code == cli.ExitUsage:
			return &cli.Failure{Code: cli.ExitUsage, Err: fmt.Errorf("%w: %s", errGaveUp, last)}
		case err != nil && exit == nil:
			return fmt.Errorf("start the agent %s: %w", c.path, cause(err))
		case code > 0 && !c.worked():
			return fmt.Errorf("%w: %s", errGaveUp, last)
		}
		if time.Since(started) > healthyAfter {
			restarts, pause = 0, c.pause
		}
		if restarts++; restarts > maxRestarts {
			return fmt.Errorf("%w: it ended %d times in a row, the last time with %s: %s", errGaveUp, restarts, how(err), last)
		}
		c.say("the agent ended (%s); starting it again in %s (%d of %d)", how(err), pause, restarts, maxRestarts)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
		pause = min(2*pause, maxPause)
	}
}

func how(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}

// once runs the agent until it ends, and returns the last line it logged.
func (c *child) once(ctx context.Context) (string, error) {
	read, write, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer write.Close()
	lines := &lineWriter{out: c.log, prefix: "agent: "}
	// Not CommandContext: the end is SIGTERM first.
	cmd := exec.Command(c.path, c.args...)
	cmd.Env = append(c.env[:len(c.env):len(c.env)], "SPILE_PARENT_FD=3")
	cmd.ExtraFiles = []*os.File{read}
	cmd.Stdout, cmd.Stderr = lines, lines
	cmd.WaitDelay = time.Second
	// Its own process group: Ctrl-C at the terminal reaches us, and we tell it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	done := make(chan error, 1)
	go func() {
		// The death signal follows the thread that forks, so this one must live as long as the child.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		read.Close()
		if err == nil {
			stop := context.AfterFunc(ctx, func() { terminate(cmd.Process) })
			err = cmd.Wait()
			stop()
		}
		done <- err
	}()
	err = <-done
	return lines.flush(), err
}

// terminate asks the process to end and kills it when it does not.
func terminate(p *os.Process) {
	if p.Signal(syscall.SIGTERM) != nil {
		return
	}
	time.AfterFunc(stopGrace, func() { _ = p.Kill() })
}

// lineWriter passes on whole lines with a prefix, cleaned for a terminal and cut at a length.
type lineWriter struct {
	mu     sync.Mutex
	out    io.Writer
	prefix string
	rest   []byte
	last   string
}

func (l *lineWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(p)
	for {
		line, rest, found := bytes.Cut(p, []byte{'\n'})
		l.rest = append(l.rest, line[:min(len(line), maxLogLine-min(len(l.rest), maxLogLine))]...)
		if !found {
			return n, nil
		}
		l.line()
		p = rest
	}
}

func (l *lineWriter) line() {
	if text := strings.TrimSpace(cli.Clean(strings.TrimRight(string(l.rest), "\r"))); text != "" {
		l.last = text
		// A log that cannot be written has nowhere to complain.
		_, _ = io.WriteString(l.out, l.prefix+text+"\n")
	}
	l.rest = l.rest[:0]
}

func (l *lineWriter) flush() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.line()
	return l.last
}
