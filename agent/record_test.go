package main

import "testing"

// Who records wants what budgets would leave out; what a person asks for by name stays.
func TestARecordingHasNoBudgets(t *testing.T) {
	var c config
	if _, err := c.parse([]string{"--body-bytes", "1000", "--budget-bytes", "1000", "--library-budget", "0.5", "--governor-stage", "no_bodies"}, environment()); err != nil {
		t.Fatal(err)
	}
	if c.cpu == 0 || c.probes == 0 || c.bodies == 0 || c.budget == 0 || c.library == 0 {
		t.Fatalf("nothing to take away: %+v", c)
	}
	got := c.whole()
	if got.cpu != 0 || got.probes != 0 || got.library != 0 || got.bodies != 0 || got.budget != 0 {
		t.Errorf("%+v", got)
	}
	if got.stage != "no_bodies" || got.message != c.message || got.ringBytes != c.ringBytes {
		t.Errorf("%+v", got)
	}
}
