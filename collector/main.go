// Command spile is the collector, its terminal verbs and the product on one host.
//
// Three ways to run it:
//
//	spile collector   the server: agents in, journal, inventory, findings, queries out
//	spile up          the same in this process, and a child spile-agent that cannot outlive it
//	spile VERB        a client of a running server (collector/cli)
//
// What runs in a server, who starts it and what ends it:
//
//	run ─┬─ intake     agents' streams; ends first, so that nothing new comes in
//	     ├─ owners     one goroutine per partition: journal → route → inventory → detect → commit
//	     ├─ outlets    one goroutine per sink, each with its own position in the journal
//	     ├─ query      unix socket and TCP; followers read from bounded queues
//	     ├─ http       /metrics, /healthz, /readyz
//	     └─ journal    closed last: what was acknowledged is on disk
//
// Between them are the journal (on disk) and the two feeds of collector/query (bounded, they never block a sender).
// What fails at the start is told in one line and ends the program; what fails later is logged, counted and tried again.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spile/spile/collector/cli"
)

// version is set by the linker.
var version = "dev"

func main() {
	// Whatever this program makes is its user's alone.
	syscall.Umask(0o077)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The second signal ends the program at once.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, system()))
}

// world is what the server needs beyond the terminal: who and where this process is.
type world struct {
	cli.World
	uid        int
	hostname   string
	executable string
	// runDir gets the well-known link to the query socket; empty = none.
	runDir string
	// keepPipe makes a broken pipe an error of the write instead of the end of the process.
	keepPipe func()
}

func system() world {
	host, _ := os.Hostname()
	exe, _ := os.Executable()
	w := world{
		World: cli.World{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Env: os.Environ(), Args: os.Args[1:], Now: time.Now, Version: version},
		uid:   os.Geteuid(), hostname: host, executable: exe,
		keepPipe: func() { signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) },
	}
	if w.uid == 0 {
		w.runDir = "/run/spile"
	}
	if size, err := unix.IoctlGetWinsize(int(os.Stdout.Fd()), unix.TIOCGWINSZ); err == nil {
		w.Terminal, w.Width = true, int(size.Col)
	}
	return w
}

// run is the whole program on any world.
func run(ctx context.Context, w world) int {
	root := cli.Root(w.World, upVerb(w), collectorVerb(w), cli.ReplayVerb(w.World, replayer(w)))
	cli.EnrollVerb(w.World, root, func(data, node, out string, force bool) error { return enroll(data, node, out, force, w.Now) })
	return cli.Run(ctx, w.World, root)
}
