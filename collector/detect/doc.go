// Package detect turns calls into findings by rules that are data.
//
// A rule is one YAML file under rules/ (see Rule). Its condition is a CEL expression over one call, compiled once, refused at load
// when its worst case costs too much. Before CEL runs, the rule's needs are checked against facts computed once per call, so that
// an ordinary call costs a few comparisons and no evaluation.
//
//	call ──facts──▶ needs met? ──no──▶ next rule
//	                    │yes
//	                  when? ──false──▶ next rule
//	                    │true
//	              severity_if, loopback ──▶ group ──▶ Finding (new, or counted)
//
// A Detector owns the findings of one partition and is used by one goroutine. Given the same rules and the same calls in the same
// order it makes the same findings: ids are hashes, times come from the calls, evidence is the first five calls in order. A
// Finding handed out is never changed again; the next change makes a new one.
//
// A finding's revision rises when sinks must hear of it:
//
//	created ─▶ 1 ─▶ count reaches 10, 100, 1,000, ... ─▶ severity or scope changes ─▶ closed one matches again
//
// Nothing closes a finding yet: that its calls stopped does not say that the weakness is gone. A finding stays open, last_seen
// tells how old it is, and one that came back closed from Restore opens again at its next match.
//
// What is lost: findings beyond the detector's limit, and matches of a rule whose evaluation failed on a call. Counters has both.
// Beyond 1,000 findings of one rule on one service the rest are one finding, with route "*". Detector state survives only through
// Restore.
//
// A finding whose calls all stayed on loopback has scope "loopback" and severity "low": nothing but this host could read or send
// them. One call that left the host lifts both for good.
package detect
