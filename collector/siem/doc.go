// Package siem delivers findings to where people watch: a file of JSON lines or standard output, in Spile's own form or as OCSF
// Detection Finding (class 2004 of schema 1.8.0).
//
// Each sink is an Outlet with its own durable position in the journal, run by one goroutine that its owner starts:
//
//	journal position ─▶ finding ─▶ format ─▶ Sink.Write ─▶ Sink.Sync ─▶ position moves
//	        ▲                                    │ fails
//	        └───────── waits, doubling ◀─────────┘
//
// A slow or broken sink holds up only itself. The position moves after Sync alone, so nothing is lost while a sink is down; after
// a crash the last finding may come twice. Both lines have the same event id (finding id and revision), by which a receiver can
// tell. A finding is delivered when its revision rose: counting further calls is not news. Which revisions went out is known only
// as long as the process lives: after a restart a finding that is still being counted comes once more, with the id it had.
//
// What is lost: a stored value that is no finding (skipped and counted as an error); the oldest lines of a file beyond its
// size times its number of rotations; and, on standard output, what the reader of the pipe throws away.
package siem
