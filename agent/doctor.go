package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"text/tabwriter"

	diagnose "github.com/spile/spile/agent/doctor"
)

// errUnhealthy says that doctor found what keeps the agent from working; its lines have said the rest.
var errUnhealthy = errors.New("the agent cannot work here")

// doctor shows what this kernel and host allow.
func doctor(ctx context.Context, w world, c config, _ []string) error {
	checks := diagnose.Doctor(ctx, diagnose.ThisHost())
	if c.output == "json" {
		out := json.NewEncoder(w.stdout)
		for _, check := range checks {
			if err := out.Encode(check); err != nil {
				return err
			}
		}
	} else {
		out := tabwriter.NewWriter(w.stdout, 0, 0, 2, ' ', 0)
		for _, check := range checks {
			fmt.Fprintf(out, "%s\t%s\t%s\n", check.Verdict, check.Name, check.Detail)
			if check.Remedy != "" {
				fmt.Fprintf(out, "\t\t→ %s\n", check.Remedy)
			}
		}
		if err := out.Flush(); err != nil {
			return err
		}
	}
	if !diagnose.Healthy(checks) {
		return errUnhealthy
	}
	return nil
}
