package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/spile/spile/agent/target"
	"github.com/spile/spile/bpf"
)

// config is everything that a person can set. A setting is a flag (--ring-bytes), an environment variable
// (SPILE_RING_BYTES) and a key of the YAML file (ring_bytes); the flag wins over the variable, which wins over the file.
type config struct {
	file      string
	collector string
	data      string
	node      string
	ca        string
	cert      string
	key       string
	targets   list
	ringBytes int
	message   int
	budget    int64
	bodies    int64
	cpu       float64
	probes    float64
	library   float64
	stage     string
	hook      string
	ignore    list
	deny      list
	spool     int64
	output    string
	raw       bool
}

// defaultData is where an agent keeps its data.
const defaultData = "/var/lib/spile-agent"

// list is a flag that may be given more than once; in the environment its values are separated by white space.
type list []string

func (l *list) String() string     { return strings.Join(*l, " ") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

// usageError is a mistake in how the program was called: exit status 2.
type usageError struct{ error }

func (c *config) flags() *flag.FlagSet {
	f := flag.NewFlagSet("spile-agent", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	c.ringBytes, c.message, c.bodies, c.spool = 16<<20, 64<<10, 8<<20, 256<<20
	c.cpu, c.probes, c.output = 1, float64(runtime.NumCPU())/2, "table"
	f.StringVar(&c.file, "config", "", "YAML `file` with the keys below, dashes written as underscores")
	f.StringVar(&c.collector, "collector", "127.0.0.1:7741", "`address` of the collector")
	f.StringVar(&c.data, "data", defaultData, "`directory` for the spool, the install key and what is known of builds (made 0700)")
	f.StringVar(&c.node, "node", "", "`name` of this node (default: the certificate's; needed with a certificate for any node)")
	f.StringVar(&c.ca, "ca", "", "`file` with the collector's CA certificate")
	f.StringVar(&c.cert, "cert", "", "`file` with this agent's certificate (spile agents enroll makes it)")
	f.StringVar(&c.key, "key", "", "`file` with the certificate's private key")
	f.Var(&c.targets, "target", "what is watched: netns=PATH|self, cgroup=PATH, exe=GLOB, pid=N, port=N, a leading ! excludes; values of one kind widen, kinds narrow; `selector` may be given many times (default: everything)")
	f.Var(quantity[int]{to: &c.ringBytes, min: 1 << 16, max: 1 << 30, power: true}, "ring-bytes", "`bytes` of the ring between kernel and agent, a power of two")
	f.Var(quantity[int]{to: &c.message, min: 1 << 10, max: 1 << 30}, "message-bytes", "most `bytes` that are copied of one HTTP/1 message; sizes are told all the same")
	f.Var(quantity[int64]{to: &c.budget, max: 1 << 40}, "budget-bytes", "most `bytes` a second that are copied from one cgroup; what is over it is counted (0 = no limit)")
	f.Var(quantity[int64]{to: &c.bodies, max: 1 << 40}, "body-bytes", "most `bytes` a second that are copied from one cgroup of what its messages have beyond 4 KiB; over it messages are cut there and say so (0 = no limit)")
	f.Var(cores{&c.cpu}, "cpu-budget", "`cores` that the agent itself may use, over ten seconds; beyond it less is taken in, step by step; 0.5 or 50% is half of one (0 = no limit)")
	f.Var(cores{&c.probes}, "probe-budget", "`cores` that probes may cost the watched programs; beyond it the dearest file is detached for a while (0 = no limit; default: half of the processors)")
	f.Var(cores{&c.library}, "library-budget", "`cores` that the probes of one library may cost; beyond it that library rests for ten minutes (0 = no limit)")
	f.Var(choice{to: &c.stage, of: stageNames(), none: true}, "governor-stage", "hold this `stage` whatever it costs: full, no_bodies, no_responses or sampled (one connection in 8); budgets then decide nothing (default: they decide)")
	f.Var(choice{to: &c.hook, of: []string{bpf.RungTracepoint, bpf.RungFexit, bpf.RungKprobe, bpf.RungSyscall}, none: true}, "socket-hook", "force a `rung` of the socket hooks: tp_btf, fexit, kprobe or syscall (default: the best this kernel has)")
	f.Var(&c.deny, "deny", "processes that no probe may be in: exe=GLOB or cgroup=PATH; `entry` may be given many times")
	f.Var(&c.ignore, "ignore-gate", "attach although this test of the host was refused: uretprobe_seccomp or preempt; programs may crash; `name` may be given many times")
	f.Var(quantity[int64]{to: &c.spool, min: 1 << 20, max: 1 << 40}, "spool-bytes", "`bytes` of calls kept on disk while the collector is away; the oldest go first, counted")
	f.Var(choice{to: &c.output, of: []string{"table", "json"}}, "o", "output `format` of doctor and replay: table or json")
	f.BoolVar(&c.raw, "raw", false, "record: keep every value as it is (secrets included)")
	return f
}

// parse reads the arguments after the verb, the environment and the file, and returns what is left of the arguments.
func (c *config) parse(args []string, env func(string) (string, bool)) ([]string, error) {
	f := c.flags()
	if err := f.Parse(reorder(f, args)); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil, err
		}
		return nil, usageError{flagError(f, err)}
	}
	given := map[string]bool{}
	f.Visit(func(x *flag.Flag) { given[x.Name] = true })
	if err := c.fromEnvironment(f, env, given); err != nil {
		return nil, usageError{err}
	}
	if c.file != "" {
		if err := fromFile(f, c.file, given); err != nil {
			return nil, err
		}
	}
	if err := checkGates(c.ignore); err != nil {
		return nil, err
	}
	if _, err := target.ParseSpec(c.targets); err != nil {
		return nil, usageError{fmt.Errorf("--target: %w", err)}
	}
	return f.Args(), nil
}

func (c *config) fromEnvironment(f *flag.FlagSet, env func(string) (string, bool), given map[string]bool) error {
	var first error
	f.VisitAll(func(x *flag.Flag) {
		name := "SPILE_" + strings.ToUpper(strings.ReplaceAll(x.Name, "-", "_"))
		value, ok := env(name)
		if !ok || given[x.Name] || x.Name == "o" {
			return
		}
		values := []string{value}
		if _, many := x.Value.(*list); many {
			values = strings.Fields(value)
		}
		for _, v := range values {
			if err := f.Set(x.Name, v); err != nil && first == nil {
				first = fmt.Errorf("%s=%s: %w", name, plainValue(strconv.Quote(v)), err)
			}
		}
		given[x.Name] = true
	})
	return first
}

// fromFile sets what neither flag nor environment gave. An unknown key is an error: a misspelt setting must not pass.
func fromFile(f *flag.FlagSet, name string, given map[string]bool) error {
	data, err := os.ReadFile(name)
	if err != nil {
		return fmt.Errorf("read the configuration: %w", err)
	}
	var keys map[string]yaml.Node
	if err := yaml.Unmarshal(data, &keys); err != nil {
		return usageError{fmt.Errorf("read the configuration %s: %w", name, err)}
	}
	for key, node := range keys {
		x := f.Lookup(strings.ReplaceAll(key, "_", "-"))
		if x == nil || x.Name == "config" || x.Name == "o" || strings.Contains(key, "-") {
			return usageError{fmt.Errorf("%s:%d: unknown key %q (spile-agent --help lists the keys)", name, node.Line, key)}
		}
		if given[x.Name] {
			continue
		}
		values := []string{node.Value}
		if node.Kind == yaml.SequenceNode {
			values = nil
			for _, n := range node.Content {
				values = append(values, n.Value)
			}
		}
		for _, v := range values {
			if err := f.Set(x.Name, v); err != nil {
				return usageError{fmt.Errorf("%s:%d: %s: %s: %w", name, node.Line, key, plainValue(strconv.Quote(v)), err)}
			}
		}
	}
	return nil
}

// reorder lets flags stand after a verb's argument, as in `replay FILE -o json`: package flag stops at the first argument.
func reorder(f *flag.FlagSet, args []string) []string {
	var flags, rest []string
	for i := 0; i < len(args); i++ {
		a := args[i]
		if a == "--" {
			return append(append(append(flags, "--"), rest...), args[i+1:]...)
		}
		if len(a) < 2 || a[0] != '-' {
			rest = append(rest, a)
			continue
		}
		flags = append(flags, a)
		name, _, inline := strings.Cut(strings.TrimLeft(a, "-"), "=")
		if x := f.Lookup(name); x != nil && !inline && !isBool(x) && i+1 < len(args) {
			i++
			flags = append(flags, args[i])
		}
	}
	return append(flags, rest...)
}

func isBool(x *flag.Flag) bool {
	_, err := strconv.ParseBool(x.DefValue)
	_, boolean := x.Value.(interface{ IsBoolFlag() bool })
	return err == nil && boolean
}
