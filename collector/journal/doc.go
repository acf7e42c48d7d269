// Package journal stores what the collector must not forget: the calls as they came and the state computed from them.
//
// It is NATS JetStream behind a dozen methods. Without a URL the server runs inside this process, listens on nothing and
// syncs every write; with one, the same client code talks to an external cluster. Two streams:
//
//	EVENTS  ev.PART.TENANT   records (column batches) in the order of their arrival; bounded by bytes and age, oldest go first
//	STATE   st.PART.KEY      the last two values of each key; st.PART.meta is written last in each commit
//
// Life of a record and of the state made from it:
//
//	Append ──fsync──▶ acknowledged ──Read──▶ owner's memory ──Commit──▶ STATE {entries..., meta} ──Watch──▶ sinks
//	   │ no ack: unknown, sent again               │ crash: memory is lost, Load gives the last commit, Read repeats the rest
//	   ▼                                           ▼
//	the owner's watermarks drop a second copy      nothing is counted twice: position and counts are one commit
//
// A commit is one atomic batch fenced by the revision of meta, so of two owners that both believe in themselves only one
// can write (ErrStale). The engine stages a batch before it applies it and finishes it after a crash of the process. A
// staged batch is not synced, so a power failure can leave the first part of a batch applied: each entry carries the
// revision it was fenced with, Load finds those that no meta followed and puts the values before them back. That is why
// STATE keeps two values per key.
//
// What is lost when: a record not acknowledged may or may not be stored (the sender repeats it); a record older than the
// retention is gone whether read or not, and so is what stood behind a damaged one (both show in Bounds); Open refuses a
// stream that cannot be read at all.
// Retention by age and bytes does not touch STATE.
package journal
