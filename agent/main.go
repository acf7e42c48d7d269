// Command agent is spile-agent: it taps the plaintext of watched programs, reduces each API call to metadata on this
// node, and streams the metadata to the collector.
//
//	bpf.Record ─source─▶ chunk.Chunk ─flow─▶ parse.Exchange ─call─▶ *v1.Call ─join─▶ *v1.Call ─ship─▶ collector
//
// Goroutines, each with an owner and its channels:
//
//	pipeline  run by source.Run; owns flow, call and join state; every stage up to ship.Add runs in it, without locks but
//	          that of the table of coverage, which it tells of calls and asks for shares
//	account   owned by the tap; once a second takes the kernel's figures into that table, and finds reasons and places
//	watcher   owned by target.Watcher; reads /proc on exec events, hands files to the probe registry
//	crashes   owned by the tap; judges programs that crashed, and has the probes taken out that were the cause
//	governor  owned by the tap; once a second compares what the agent and its probes cost with their budgets
//	bodies    owned by the tap; one second in sixty has the kernel measure our programs
//	shipper   owned by ship.Shipper; takes calls from one bounded channel (full = counted drop), spools, sends, receipts
//	parent    waits for the end of the inherited pipe, so that the agent ends with `spile up` even when that is killed
//
// Loss is counted in each stage and sent as Health every few seconds.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

// version is set by the linker.
var version = "dev"

// world is what the program knows of the outside, so that all of it runs in a test.
type world struct {
	args   []string
	env    func(string) (string, bool)
	stdout io.Writer
	stderr io.Writer
}

// Exit statuses, as DESIGN fixes them.
const (
	exitOK    = 0
	exitError = 1
	exitUsage = 2
)

func main() {
	if asked, err := childVerb(os.Args); asked {
		if err != nil {
			fmt.Fprintln(os.Stderr, "spile-agent:", err)
			os.Exit(exitError)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	code := run(ctx, world{os.Args[1:], os.LookupEnv, os.Stdout, os.Stderr})
	stop()
	os.Exit(code)
}

// verb is one thing that the agent does.
type verb struct {
	name string
	args int    // how many it takes
	what string // what the argument is
	do   func(ctx context.Context, w world, c config, args []string) error
}

func verbs() []verb {
	return []verb{
		{"", 0, "", watch},
		{"doctor", 0, "", doctor},
		{"allow", 1, "BUILD_ID", allow},
		{"record", 1, "FILE", record},
		{"replay", 1, "FILE", replay},
		{"version", 0, "", func(_ context.Context, w world, _ config, _ []string) error {
			_, err := fmt.Fprintln(w.stdout, "spile-agent", version)
			return err
		}},
	}
}

func run(ctx context.Context, w world) int {
	err := dispatch(ctx, w)
	var usage usageError
	switch {
	case err == nil || errors.Is(err, syscall.EPIPE):
		return exitOK
	case errors.Is(err, flag.ErrHelp):
		help(w.stdout)
		return exitOK
	case errors.As(err, &usage):
		fmt.Fprintln(w.stderr, "spile-agent:", err)
		return exitUsage
	case errors.Is(err, errUnhealthy):
		return exitError
	}
	fmt.Fprintln(w.stderr, "spile-agent:", err)
	return exitError
}

func dispatch(ctx context.Context, w world) error {
	name, rest := "", w.args
	if len(rest) > 0 && !strings.HasPrefix(rest[0], "-") {
		name, rest = rest[0], rest[1:]
	}
	if name == "help" {
		return flag.ErrHelp
	}
	for _, v := range verbs() {
		if v.name != name {
			continue
		}
		var c config
		args, err := c.parse(rest, w.env)
		if err != nil {
			return err
		}
		switch {
		case len(args) < v.args:
			return usageError{fmt.Errorf("spile-agent %s %s: the %s is missing", v.name, v.what, strings.ToLower(strings.ReplaceAll(v.what, "_", " ")))}
		case len(args) > v.args:
			return usageError{fmt.Errorf("%s: unexpected argument %q", strings.TrimSpace("spile-agent "+v.name), args[v.args])}
		}
		return v.do(ctx, w, c, args)
	}
	return usageError{fmt.Errorf("unknown verb %q: want doctor, allow, record, replay or version", name)}
}

func logger(w world) *slog.Logger { return slog.New(slog.NewTextHandler(w.stderr, nil)) }
