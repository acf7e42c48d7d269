package main

import (
	diagnose "github.com/spile/spile/agent/doctor"
	"github.com/spile/spile/agent/probe"
)

// learnedChecks tells of builds that no call has shown to bear probes, and of cheaper places that are not used.
func learnedChecks(dir string) []diagnose.Check {
	told, err := probe.Learned(dir)
	if err != nil {
		return nil // kept.check says so
	}
	var checks []diagnose.Check
	for _, build := range told.Silent {
		checks = append(checks, diagnose.Check{Name: "canary", Verdict: diagnose.OK,
			Detail: build + " was attached for all without a call in its first process: that it bears probes shows with its first calls"})
	}
	for _, place := range told.Doubts {
		checks = append(checks, diagnose.Check{Name: "inner_place", Verdict: diagnose.OK,
			Detail: "probes stay at the entry, where a cheaper place showed other calls: " + place})
	}
	return checks
}
