package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	diagnose "github.com/spile/spile/agent/doctor"
	"github.com/spile/spile/agent/probe"
)

// everything is what stands for all builds.
const everything = "all"

// allow lets probes into a build again that was denied because programs crashed. An agent that runs takes it over.
func allow(_ context.Context, w world, c config, args []string) error {
	return allowIn(w.stdout, args[0], dataDirs(c)...)
}

// allowIn takes a build off the lists of these data directories.
func allowIn(out io.Writer, name string, dirs ...string) error {
	id := name
	if id == everything {
		id = ""
	}
	var others []string
	found := false
	for _, dir := range dirs {
		allowed, err := probe.Allow(dir, id)
		if err != nil {
			return fmt.Errorf("allow %s: %w", name, err)
		}
		for _, d := range allowed {
			found = true
			fmt.Fprintf(out, "allowed %s (%s), denied since %s: %s\n", d.Path, called(d), d.When.Format("2006-01-02 15:04:05 MST"), d.Why)
		}
		denied, err := probe.Denials(dir)
		if err != nil {
			return fmt.Errorf("allow %s: %w", name, err)
		}
		for _, d := range denied {
			others = append(others, d.Name())
		}
	}
	switch {
	case found:
		return nil
	case len(others) == 0:
		return fmt.Errorf("allow %s: no build is denied in %s; an agent of `spile up` keeps its list in the directory \"agent\" of its --data, which goes to --data here",
			name, strings.Join(dirs, " or in "))
	}
	return fmt.Errorf("allow %s: it is not denied; denied are %s", name, strings.Join(others, ", "))
}

// called says what is denied: a build, or one file.
func called(d probe.Denial) string {
	switch {
	case d.File == nil:
		return "build id " + d.BuildID
	case d.BuildID == "":
		return "the file " + d.Name()
	}
	return "the file " + d.Name() + " alone: others than root may write into it"
}

// ofData is the flag that a command needs to reach the data of an agent that keeps it elsewhere.
func ofData(dir string) string {
	if dir == defaultData || dir == upData {
		return ""
	}
	return " --data " + dir
}

// deniedChecks tells of the builds that are not probed because of what they did.
func deniedChecks(dir string) []diagnose.Check {
	denied, err := probe.Denials(dir)
	if err != nil {
		// What was forbidden would be forgotten: the agent does not start either.
		return []diagnose.Check{{Name: "denied", Verdict: diagnose.Fail, Detail: err.Error(), Remedy: "correct the file, or remove it to allow all"}}
	}
	var checks []diagnose.Check
	for _, d := range denied {
		checks = append(checks, diagnose.Check{Name: "denied", Verdict: diagnose.Warn,
			Detail: fmt.Sprintf("%s (%s) is not probed since %s: %s", d.Path, called(d), d.When.Format("2006-01-02"), d.Why),
			Remedy: "once the cause is gone: spile-agent allow " + d.Name() + ofData(dir)})
	}
	if checks == nil {
		checks = []diagnose.Check{{Name: "denied", Verdict: diagnose.OK, Detail: "no build is denied in " + dir}}
	}
	return checks
}
