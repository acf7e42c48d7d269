// Package replay runs Call JSON lines through route, inventory and detection offline: the same bytes in, the same bytes out.
//
//	lines ─▶ calls in input order ─▶ stable sort by event time ─▶ route ▶ inventory ▶ detect
//	              │                                                        │ finished
//	              └──────────── Result.Calls, with final routes ◀─────────┘
//
// A line needs time, method, path and status_code; protocol and authority make it land in the right service. A call without
// service gets the one that intake would assign, and one without id gets a hash of its place in the input. Unknown keys are
// ignored. Nothing is skipped: the first line that is no call ends the run with an error that names it.
//
// All calls are held in memory, because order by event time is known only at the end; Pipeline.MaxCalls bounds them. The package
// does no I/O of its own and knows neither clock nor files: readers and stages come from its caller.
package replay
