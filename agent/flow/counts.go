package flow

import "strings"

// Counts is what became of everything that was fed. Every way of losing something has a name.
type Counts struct {
	Chunks          uint64 // fed, closes included
	Invalid         uint64 // of an unknown kind or direction
	Bytes           uint64 // captured
	Gaps            uint64 // holes between or behind the captured bytes
	GapBytes        uint64
	Shed            uint64 // chunks of responses that were left out on purpose
	ShedBytes       uint64
	Duplicates      uint64 // chunks that repeat what was seen
	Streams         uint64 // begun
	LateJoin        uint64 // streams of a known protocol joined after their first byte
	UnknownProtocol uint64 // streams that no parser reads
	Moved           uint64 // streams that went on with another connection
	Switched        uint64 // streams that left their protocol in good order (101, CONNECT)
	Abandoned       uint64 // streams that stopped making sense
	Muted           uint64 // streams of which no more data is wanted
	MutedChunks     uint64 // that came all the same
	Idle            uint64 // streams parked after silence
	Evicted         uint64 // streams parked to stay within bounds
	Forgotten       uint64 // parked streams dropped to stay within bounds
	Calls           uint64 // exchanges handed on
	LostServer      uint64 // calls lost where this end is the server
	LostClient      uint64 // calls lost where this end is the client
	LostUnknown     uint64 // of those, on streams whose protocol was never seen
	LostShed        uint64 // of those, whose responses were left out and could not be told from others
	LostBy          [protocolCount]uint64
	Unanswered      uint64 // requests without a response at the end
	Malformed       uint64 // messages that broke their protocol
}

// Lost is how many calls were lost at either end.
func (c Counts) Lost() uint64 { return c.LostServer + c.LostClient }

// Each yields the counters by name.
func (c Counts) Each(yield func(name string, value uint64)) {
	yield("chunks", c.Chunks)
	yield("invalid", c.Invalid)
	yield("bytes", c.Bytes)
	yield("gaps", c.Gaps)
	yield("gap_bytes", c.GapBytes)
	yield("shed", c.Shed)
	yield("shed_bytes", c.ShedBytes)
	yield("duplicates", c.Duplicates)
	yield("streams", c.Streams)
	yield("late_join", c.LateJoin)
	yield("unknown_protocol", c.UnknownProtocol)
	yield("moved", c.Moved)
	yield("switched", c.Switched)
	yield("abandoned", c.Abandoned)
	yield("muted", c.Muted)
	yield("muted_chunks", c.MutedChunks)
	yield("idle", c.Idle)
	yield("evicted", c.Evicted)
	yield("forgotten", c.Forgotten)
	yield("calls", c.Calls)
	yield("lost_calls", c.Lost())
	yield("lost_server", c.LostServer)
	yield("lost_client", c.LostClient)
	yield("lost_unknown", c.LostUnknown)
	yield("lost_shed", c.LostShed)
	for i, p := range protocols() {
		yield("lost_"+strings.ReplaceAll(p.name, "/", ""), c.LostBy[i])
	}
	yield("unanswered", c.Unanswered)
	yield("malformed", c.Malformed)
}

// Counts tells what became of everything so far.
func (f *Flow) Counts() Counts { return f.counts }
