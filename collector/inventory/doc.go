// Package inventory is what a partition's calls add up to: services and their endpoints.
//
// An endpoint is service, method and route. The protocol is not part of it: HTTP/1.1 and HTTP/2 are two ways to one
// endpoint, and a gRPC method has a route of its own (/pkg.Service/Method). The row shows the newest protocol seen.
//
//	          answered 400, 404, 405, 410, 501 or not at all          answered by anything else
//	call ───▶ candidate (hidden, at most 1,000 a service) ──────────▶ active, for ever
//	   └────▶ active, when the first answer already shows that it exists
//
// What counts as a call: one seen by the server's end (or both). A call seen only by the client counts in client_calls; it
// counts in calls, statuses, auth and schemes only where the destination is no process of this host, because otherwise
// the server's end tells of it too. State, callers, data classes and times take every sighting.
//
// Coverage is how much of the serving process's traffic is seen, as its agent said at the newest call; where only clients were
// seen, how much of the client's. An agent that does not say leaves it as it was, and unknown at first.
//
// Callers are the workloads that called, else the processes, else the addresses: the first 64.
//
// Nothing grows without bound. Where a service, a partition or the list of services is full, the call is counted as
// unmatched in its service, or in service "*" when that is not listed; half of the list of services is for those that have
// answered, so that made-up host names cannot crowd them out. Nothing is dropped without a count:
//
//	calls observed = Σ calls + Σ client-only sightings of covered servers;  Σ service calls = Σ endpoint calls + Σ unmatched
//
// The rows live in memory and, packed 32 to a bucket in the order of their birth, in the journal: a commit writes few
// messages, and each costs a sync. A bucket is changed in place and never moves. One goroutine calls Observe, Flush and
// Restore; any number may read. Rows handed out are never changed again.
package inventory
