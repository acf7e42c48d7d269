package main

import (
	"flag"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

const (
	// helpWidth is what fits a terminal of usual size; helpIndent is where the texts of flags begin.
	helpWidth  = 100
	helpIndent = 31
)

func help(out io.Writer) {
	fmt.Fprint(out, `spile-agent taps API calls on this host and streams their metadata to a collector.

  spile-agent [flags]               watch, until SIGINT or SIGTERM
  spile-agent doctor [-o json]      what this kernel and host allow, and what to do about the rest;
                                    --data DIR: of the agent that keeps its data there
  spile-agent allow BUILD_ID        let probes into a build again that was denied since programs
                                    crashed (all: every build)
  spile-agent record FILE [--raw]   write what the kernel shows to FILE (0600), values masked
  spile-agent replay FILE [-o json] the calls that a recording holds
  spile-agent version

  spile-agent --target netns=self --target '!port=22'
  spile-agent --collector 10.0.0.5:7741 --ca ca.crt --cert agent.crt --key agent.key
  spile up -- --cpu-budget 0.5      the same flags, for the agent of spile up

Bytes may be written as 64KiB, 16MiB or 1GiB, cores as 0.5 or 50%. Each flag is also SPILE_NAME in
the environment and a key of the --config file:

`)
	var c config
	c.flags().VisitAll(func(f *flag.Flag) {
		placeholder, usage := flag.UnquoteUsage(f)
		if f.DefValue != "" && f.DefValue != "false" && !strings.Contains(usage, "default:") {
			usage += " (default " + f.DefValue + ")"
		}
		lines := wrapped(usage, helpWidth-helpIndent)
		fmt.Fprintf(out, "  %-28s %s\n", strings.TrimSpace(dashed(f.Name)+" "+placeholder), lines[0])
		for _, line := range lines[1:] {
			fmt.Fprintf(out, "%s%s\n", strings.Repeat(" ", helpIndent), line)
		}
	})
}

// wrapped breaks a text between words into lines of at most width characters; a longer word has a line of its own.
func wrapped(text string, width int) []string {
	var all []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		switch {
		case line == "":
			line = word
		case utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width:
			all = append(all, line)
			line = word
		default:
			line += " " + word
		}
	}
	return append(all, line)
}
