// Package cli is the terminal: verbs that ask a running collector over the query API and print what it answers.
//
// Every verb finds the collector in the same way (--server, else --data, else /run/spile/query.sock), prints a table for
// people or one JSON line per item for programs (-o json, proto/line), and ends with one of four codes:
//
//	0  answered
//	1  failed, or found what it was asked to look for
//	2  called wrongly
//	3  could not reach the collector
//
// An error is one line that says what to do. Whatever comes from a watched host is cleaned before it reaches a terminal
// (see Clean): a path must not be able to move the cursor.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// Exit codes of every verb.
const (
	ExitOK          = 0
	ExitFailed      = 1
	ExitUsage       = 2
	ExitUnreachable = 3
)

// World is everything outside of the program, so that a test can be one.
type World struct {
	Stdin   io.Reader
	Stdout  io.Writer
	Stderr  io.Writer
	Env     []string
	Args    []string
	Now     func() time.Time
	Version string
	// Terminal tells that Stdout is one, Width how many columns it has (0 = unknown).
	Terminal bool
	Width    int
}

// Getenv returns the value of an environment variable, or "".
func (w World) Getenv(name string) string {
	for _, kv := range w.Env {
		if key, value, ok := strings.Cut(kv, "="); ok && key == name {
			return value
		}
	}
	return ""
}

// colour tells whether styles may be printed (https://no-color.org).
func (w World) colour() bool {
	return w.Terminal && w.Getenv("NO_COLOR") == "" && w.Getenv("TERM") != "dumb"
}

// helpWidth is where the text of flags wraps. The library goes a few columns beyond it rather than leave a word alone.
const helpWidth = 94

// Failure is an error that knows the program's exit code.
type Failure struct {
	Code int
	Err  error
}

func (f *Failure) Error() string { return f.Err.Error() }
func (f *Failure) Unwrap() error { return f.Err }

// Usage makes an error of a wrong call.
func Usage(format string, args ...any) error {
	return &Failure{Code: ExitUsage, Err: fmt.Errorf(format, args...)}
}

// errFound ends a verb with code 1 and no message: the output has said it.
var errFound = errors.New("found")

// ErrStopped ends a verb well: the reader of the output has left or the user has interrupted it.
var ErrStopped = errors.New("stopped")

// Root builds the command tree: the verbs of this package and those that main brings.
func Root(w World, verbs ...*cobra.Command) *cobra.Command {
	root := &cobra.Command{
		Use:   "spile",
		Short: "Spile turns the API calls of this host into an inventory and findings",
		Long: "Spile turns the API calls of this host into an inventory and findings.\n" +
			"It reads them where they are plain text already: nothing is proxied, no key is needed.",
		Example: "  spile up                               watch this host (root)\n" +
			"  spile up --target exe=/usr/sbin/nginx  only nginx\n" +
			"  spile calls -f --status 5xx            calls that failed, as they happen\n" +
			"  spile endpoints -o json | jq .route    the inventory for programs",
		Version:       w.Version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(FlagError)
	root.SetVersionTemplate("spile {{.Version}}\n")
	root.SetUsageTemplate(strings.ReplaceAll(root.UsageTemplate(), ".FlagUsages", fmt.Sprintf(".FlagUsagesWrapped %d", helpWidth)))
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetHelpCommand(&cobra.Command{Hidden: true, Use: "no-help", Args: cobra.NoArgs})
	root.AddCommand(verbs...)
	root.AddCommand(callsVerb(w), servicesVerb(w), endpointsVerb(w), findingsVerb(w), agentsVerb(w), sinksVerb(w), statusVerb(w), versionVerb(w))
	root.SetIn(w.Stdin)
	root.SetOut(w.Stdout)
	root.SetErr(w.Stderr)
	root.SetArgs(w.Args)
	return root
}

// Run executes the tree and returns the exit code; what failed is told on Stderr in one line.
func Run(ctx context.Context, w World, root *cobra.Command) int {
	cmd, err := root.ExecuteContextC(ctx)
	var failure *Failure
	switch {
	case err == nil, errors.Is(err, ErrStopped), errors.Is(err, syscall.EPIPE):
		return ExitOK
	case errors.Is(err, errFound):
		return ExitFailed
	case errors.As(err, &failure):
		if failure.Code == ExitUsage {
			fmt.Fprintf(w.Stderr, "spile: %s (see %s --help)\n", Clean(err.Error()), cmd.CommandPath())
		} else {
			fmt.Fprintf(w.Stderr, "spile: %s\n", Clean(err.Error()))
		}
		return failure.Code
	default:
		// Verbs return Failures only, so this is cobra's own: a wrong flag, argument or verb.
		fmt.Fprintf(w.Stderr, "spile: %s (see %s --help)\n", firstLine(err.Error()), cmd.CommandPath())
		return ExitUsage
	}
}

// Do makes a verb's function return Failures only.
func Do(run func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		err := run(cmd.Context(), args)
		var failure *Failure
		switch {
		case err == nil, errors.Is(err, ErrStopped), errors.Is(err, errFound), errors.Is(err, syscall.EPIPE), errors.As(err, &failure):
			return err
		default:
			return &Failure{Code: ExitFailed, Err: err}
		}
	}
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return Clean(line)
}

func versionVerb(w World) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: Do(func(context.Context, []string) error {
			_, err := fmt.Fprintf(w.Stdout, "spile %s\n", w.Version)
			return err
		}),
	}
}
