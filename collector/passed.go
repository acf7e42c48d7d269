package main

import (
	"net"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/spile/spile/collector/cli"
)

const passedExample = "spile up -- --cpu-budget 0.5 --deny exe=/usr/bin/vault"

// agentFlags are the flags behind `--`, which the agent is given as they are: it knows what they mean. Refused is what would
// undo what `up` arranges with the agent, and what is no setting of an agent that watches.
func agentFlags(cmd *cobra.Command, args []string) ([]string, error) {
	dash := cmd.ArgsLenAtDash()
	if dash < 0 {
		dash = len(args)
	}
	if dash > 0 {
		return nil, cli.Usage("unexpected argument %q: settings of the agent go behind --, as in: %s", args[0], passedExample)
	}
	for _, a := range args[dash:] {
		if err := checkAgentFlag(a); err != nil {
			return nil, err
		}
	}
	return args[dash:], nil
}

func checkAgentFlag(arg string) error {
	if !strings.HasPrefix(arg, "-") {
		return nil
	}
	name, _, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
	var why string
	switch name {
	case "collector":
		why = "the agent of up talks to the collector of up; its address is --agents-listen, in front of --"
	case "data":
		why = "up keeps the agent's data in the directory \"agent\" of its own --data, which goes in front of --"
	case "node":
		why = "give --node to up itself, in front of --"
	case "target":
		why = "give --target to up itself, in front of --"
	case "ca", "cert", "key":
		why = "up makes the agent's certificate"
	case "config":
		why = "name the settings one by one, or as SPILE_* variables"
	case "h", "help":
		why = "spile-agent --help says what the agent takes"
	case "o", "raw":
		why = "it means nothing to an agent that watches"
	default:
		return nil
	}
	return cli.Usage("%s cannot stand behind --: %s", strings.Repeat("-", min(2, max(1, len(name))))+name, why)
}

// agentOnlyEnv are the agent's settings that `up` leaves to whoever starts it: as flags behind `--`, or as these variables.
func agentOnlyEnv() []string {
	return []string{"RING_BYTES", "MESSAGE_BYTES", "BUDGET_BYTES", "BODY_BYTES", "CPU_BUDGET", "PROBE_BUDGET", "LIBRARY_BUDGET", "GOVERNOR_STAGE", "SOCKET_HOOK", "DENY", "IGNORE_GATE", "SPOOL_BYTES"}
}

// agentCall is how `up` starts the agent.
type agentCall struct {
	path    string
	node    string
	targets []string
	passed  []string // by a person, behind `--`
}

// args is the agent's side of the contract; the rest is in env.
func (a agentCall) args(collector, data string) []string {
	if host, port, err := net.SplitHostPort(collector); err == nil {
		// A listener on all addresses is reached on this one.
		if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
			collector = net.JoinHostPort("127.0.0.1", port)
		}
	}
	args := []string{"--collector", collector, "--data", data}
	for _, t := range a.targets {
		args = append(args, "--target", t)
	}
	return append(args, a.passed...)
}

// env leaves out our own settings, which the agent would take for its own, and hands on those that only it has.
func (a agentCall) env(env []string, data string) []string {
	var out []string
	for _, kv := range env {
		key, _, _ := strings.Cut(kv, "=")
		name, ours := strings.CutPrefix(key, envPrefix)
		if !ours || slices.Contains(agentOnlyEnv(), name) {
			out = append(out, kv)
		}
	}
	return append(out, "SPILE_NODE="+a.node, "SPILE_CA="+filepath.Join(data, "ca.crt"),
		"SPILE_CERT="+filepath.Join(data, "agent.crt"), "SPILE_KEY="+filepath.Join(data, "agent.key"))
}
