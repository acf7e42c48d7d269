package journal

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// restartFreeBytes must be free before a server that ran out of disk is started again.
	restartFreeBytes = 8 << 20
	restartPoll      = time.Second
	restartTimeout   = time.Minute
)

// heal starts the server again after a write failed. The engine stops a stream for good at its first failed write, for what
// is on disk may differ from what is in its memory; reading it anew settles that. Clients reconnect by themselves.
//
//	serving ──write error──▶ broken ──8 MiB are free──▶ stopped ──started──▶ serving
//	                           ▲                                   │ failed
//	                           └───────────────────────────────────┘
func (e *embedded) heal() {
	defer close(e.healed)
	for {
		select {
		case <-e.stopping:
			return
		case <-e.log.broke:
		}
		for restarted := false; !restarted; {
			select {
			case <-e.stopping:
				return
			case <-time.After(restartPoll):
			}
			if e.freeBytes() < restartFreeBytes {
				continue
			}
			e.shutdown()
			e.log.reset()
			ctx, cancel := context.WithTimeout(context.Background(), restartTimeout)
			err := e.serve(ctx)
			cancel()
			if restarted = err == nil; !restarted {
				e.log.fail(err.Error())
			}
		}
	}
}

func (e *embedded) freeBytes() uint64 {
	var st unix.Statfs_t
	if unix.Statfs(e.dir, &st) != nil {
		return 0
	}
	return st.Bavail * uint64(st.Bsize)
}

// failure is why nothing can be written at the moment, nil where it can.
func (e *embedded) failure() error {
	text := e.log.failure()
	switch {
	case text == "":
		return nil
	case strings.Contains(text, "no space left") || strings.Contains(text, "quota exceeded"):
		return fmt.Errorf("%w: free some on the disk of %s, work then goes on by itself (%s)", ErrFull, e.dir, text)
	}
	return fmt.Errorf("write to %s: %s", e.dir, text)
}

// serverLog is the embedded server's logger. It keeps what our own error messages need.
type serverLog struct {
	warn  func(string)
	broke chan struct{} // holds one token when a write failed

	mu                             sync.Mutex
	complaint, fatalText, failText string
}

func newServerLog(warn func(string)) *serverLog {
	return &serverLog{warn: warn, broke: make(chan struct{}, 1)}
}

func (l *serverLog) say(text string) {
	text = strings.TrimSpace(text)
	l.mu.Lock()
	l.complaint = text
	l.mu.Unlock()
	if strings.Contains(strings.ToLower(text), "critical write error") {
		l.fail(text)
	}
	if l.warn != nil {
		l.warn(text)
	}
}

func (l *serverLog) fail(text string) {
	l.mu.Lock()
	if l.failText == "" {
		l.failText = text
	}
	l.mu.Unlock()
	select {
	case l.broke <- struct{}{}:
	default:
	}
}

// reset forgets what a server that is gone complained of.
func (l *serverLog) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.complaint, l.fatalText, l.failText = "", "", ""
	select {
	case <-l.broke:
	default:
	}
}

func (l *serverLog) failure() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failText
}

func (l *serverLog) last() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.complaint == "" {
		return "the engine gave no reason"
	}
	return l.complaint
}

func (l *serverLog) fatal() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fatalText
}

func (l *serverLog) Warnf(format string, v ...any)  { l.say(fmt.Sprintf(format, v...)) }
func (l *serverLog) Errorf(format string, v ...any) { l.say(fmt.Sprintf(format, v...)) }

func (l *serverLog) Fatalf(format string, v ...any) {
	text := strings.TrimSpace(fmt.Sprintf(format, v...))
	l.mu.Lock()
	l.fatalText = text
	l.mu.Unlock()
}

func (l *serverLog) Noticef(string, ...any) {}
func (l *serverLog) Debugf(string, ...any)  {}
func (l *serverLog) Tracef(string, ...any)  {}
