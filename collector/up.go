package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/spile/spile/collector/cli"
	v1 "github.com/spile/spile/proto/spile/v1"
)

const agentName = "spile-agent"

func upVerb(w world) *cobra.Command {
	var cfg config
	var targets []string
	var agent, node string
	cmd := &cobra.Command{
		Use: "up [flags] [-- AGENT FLAGS]", Short: "Watch this host: collector, agent and live calls (root)",
		Args: cobra.ArbitraryArgs, DisableFlagsInUseLine: true,
		Long: "Watch this host: collector, agent and live calls, until Ctrl-C. Nothing stays attached afterwards.\n" +
			"A target is netns=PATH|self, cgroup=PATH, exe=GLOB, pid=N (with children) or port=N; ! in front\n" +
			"excludes. Several of one kind widen, different kinds narrow; none is everything.\n\n" +
			"What follows -- is given to the agent: what it may cost (--cpu-budget, --probe-budget), what no\n" +
			"probe may be in (--deny), how much is copied (--body-bytes) and so on. spile-agent --help lists\n" +
			"its flags; each is also a variable (SPILE_CPU_BUDGET), over which the flag wins.",
		Example: "  spile up\n  spile up --target exe=/usr/sbin/nginx --target '!port=22'\n" +
			"  " + passedExample,
	}
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		var unknown *pflag.NotExistError
		if errors.As(err, &unknown) {
			return fmt.Errorf("%w; flags of the agent go behind --, as in: %s", err, passedExample)
		}
		return cli.FlagError(cmd, err)
	})
	f := cmd.Flags()
	cfg.flags(f)
	f.StringArrayVar(&targets, "target", nil, "what to watch, see above")
	f.StringVar(&agent, "agent", "", "the agent's program (default: "+agentName+" beside this one)")
	f.StringVar(&node, "node", "", "name of this host (default: its host name)")
	cmd.RunE = cli.Do(func(ctx context.Context, args []string) error {
		passed, err := agentFlags(cmd, args)
		if err != nil {
			return err
		}
		if err := settle(f, w.Env); err != nil {
			return err
		}
		s, err := cfg.check()
		if err != nil {
			return err
		}
		for _, t := range targets {
			if err := checkTarget(t); err != nil {
				return err
			}
		}
		if w.uid != 0 {
			return errors.New("up must be root to see other processes: run it with sudo (spile collector needs no root)")
		}
		if agent, err = findAgent(agent, w.executable); err != nil {
			return err
		}
		if node == "" {
			node = nodeName(w.hostname)
		}
		w.keepPipe()
		return up(ctx, w, s, agentCall{agent, node, targets, passed})
	})
	return cmd
}

// up runs the collector in this process and the agent as its child, and shows what they see.
func up(ctx context.Context, w world, s settings, agent agentCall) error {
	log := slog.New(slog.NewTextHandler(w.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	c, err := openCollector(ctx, w, s, log)
	if err != nil {
		return err
	}
	data, err := filepath.Abs(filepath.Join(s.data, "agent"))
	if err == nil {
		err = writeBundle(c.identity, agent.node, data)
	}
	if err != nil {
		c.close()
		return err
	}
	if err := banner(w.Stdout, c, s, agent.targets); err != nil {
		c.close()
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	// The collector outlives the agent, which hands over what it has when it is told to end.
	serve, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServing()
	served := make(chan error, 1)
	go func() { served <- c.run(serve) }()

	kid := &child{
		path: agent.path, args: agent.args(c.agentsAddr(), data), env: agent.env(w.Env, data),
		log: w.Stderr, pause: firstPause,
		worked: func() bool {
			return slices.ContainsFunc(c.intake.Agents(), func(a *v1.Agent) bool { return len(a.GetHealth().GetRungs()) > 0 })
		},
		say: func(format string, args ...any) { fmt.Fprintf(w.Stderr, "spile: "+format+"\n", args...) },
	}
	kept, watched := make(chan error, 1), make(chan error, 1)
	go func() { kept <- kid.keep(ctx) }()
	go func() { watched <- show(ctx, w, c.socket, kid.say) }()

	ended := false
	select {
	case <-ctx.Done():
	case err = <-kept:
		kept <- nil
	case err = <-watched:
		if errors.Is(err, syscall.EPIPE) {
			err = nil
		}
	case err = <-served:
		ended = true
		if err == nil {
			err = errors.New("the collector ended by itself")
		}
	}
	stop()
	if e := <-kept; err == nil {
		err = e
	}
	stopServing()
	if !ended {
		if e := <-served; err == nil {
			err = e
		}
	}
	return err
}

// show keeps the live view running. It ends the product only when whoever read it has left (spile up | head); a full disk
// behind Stdout or a broken stream is no reason to stop watching.
func show(ctx context.Context, w world, socket string, say func(string, ...any)) error {
	for {
		err := cli.Watch(ctx, w.World, socket)
		var failure *cli.Failure
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, syscall.EPIPE):
			return err
		case errors.As(err, &failure):
			say("the live view ended (%v); showing again in %s", err, firstPause)
		default:
			say("the live view cannot be written (%v); going on without it", err)
			<-ctx.Done()
			return nil
		}
		select {
		case <-time.After(firstPause):
		case <-ctx.Done():
			return nil
		}
	}
}

func banner(out io.Writer, c *collector, s settings, targets []string) error {
	watching := "everything on this host"
	if len(targets) > 0 {
		watching = strings.Join(targets, " ")
	}
	_, err := fmt.Fprintf(out, "# spile %s: watching %s\n# queries: %s and %s (token in %s), agents: %s, metrics: http://%s/metrics, data: %s\n",
		c.world.Version, cli.Clean(watching), c.socket, c.queryAddr(), c.tokenFile, c.agentsAddr(), c.httpAddr(), s.data)
	return err
}

func findAgent(path, executable string) (string, error) {
	if path == "" {
		path = filepath.Join(filepath.Dir(executable), agentName)
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("find the agent %s: %w; build it with `make build` or name it with --agent", path, cause(err))
	}
	if info.IsDir() || info.Mode()&0o111 == 0 {
		return "", fmt.Errorf("find the agent %s: not a program; name it with --agent", path)
	}
	return path, nil
}

// nodeName makes a host name a node name, whose letters are those of a certificate.
func nodeName(host string) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '_', r == '-':
			return r
		}
		return '-'
	}, host)
	if name = strings.Trim(name, "."); name == "" {
		return "localhost"
	}
	return name[:min(len(name), 128)]
}

// checkTarget refuses what no agent understands before anything starts; the agent decides what it means.
func checkTarget(target string) error {
	kind, value, _ := strings.Cut(strings.TrimPrefix(target, "!"), "=")
	switch kind {
	case "netns", "cgroup", "exe":
		if value != "" {
			return nil
		}
	case "pid", "port":
		if n, err := strconv.ParseUint(value, 10, 31); err == nil && n > 0 && (kind == "pid" || n <= 65535) {
			return nil
		}
	}
	return cli.Usage("--target %s: want netns=PATH|self, cgroup=PATH, exe=GLOB, pid=N or port=N, with ! in front to exclude", target)
}
