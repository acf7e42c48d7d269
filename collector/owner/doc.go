// Package owner turns the journal's records into inventory and findings, one goroutine per partition.
//
// It is a room of its own because it is the only place where reading, computing and committing meet: journal knows no
// calls, inventory no storage, and main should not hold the rule that makes them exact. That rule is one loop:
//
//	         ┌──────────────◀── any error but ErrStale: memory is dropped ──◀─────────────┐
//	         ▼                                                                            │
//	Load ─▶ Restore ─▶ Read after the position ─▶ decode ─▶ route ─▶ inventory ─▶ detector ─▶ Commit ─▶ (next)
//	                                                                                      │
//	                                                          ErrStale: another owner; stop, say so
//
// A commit is {changed buckets, changed findings, meta} as one; meta holds the position in the journal and the watermarks of
// every agent. So a record's effect and the memory of having seen it are stored together or not at all: records come at
// least once, each is counted once, whatever is killed when. A large record is taken in pieces, meta then says how many
// of its calls are in, so that no commit outgrows the engine's batch.
//
// Watermarks: an agent numbers its batches within an epoch (its start). Per agent and epoch the highest number and a bitmap of
// the 1,024 below it are kept, for a batch sent again may come after its successors. A batch below the bitmap cannot be told
// from a second copy: it is left out and counted as late. Kept are the epochs heard of within 24 hours and the newest two of
// each agent for a month, at most 4,096 in a partition, where the one silent longest goes first. A batch of an epoch that
// is not kept is new: a receipt was given for it, so it may count twice, but is never left out.
//
// Each partition's memory has one writer, its goroutine. Queries read rows that nobody changes afterwards.
//
// What is lost when: a record that cannot be decoded (Undecodable, its calls in LostCalls), a late batch (Late, LostCalls),
// records that retention removed before they were read (Warn says so: the journal no longer knows how many). What is live
// (Live) is told once, and again after a crash; what is stored is exact.
package owner
