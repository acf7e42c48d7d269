package inventory

import v1 "github.com/spile/spile/proto/spile/v1"

// figure is the coverage of an endpoint or a service: that of the process at the end that counts, at the newest call; nil is
// unknown. A call that has none, or came after a newer one, leaves it. A figure is never changed, only replaced, so rows may share it.
type figure struct{ coverage *float64 }

// observe takes the figure of a call into account, before the call counts in calls, clientCalls and last. What decides is stored
// with the row, so that a restored one goes on alike. A figure of the client's is taken until a server's sighting is known: while
// nothing has counted but clients' sightings, there are at most as many calls as those.
func (f *figure) observe(c *v1.Call, s sighting, calls, clientCalls uint64, last int64) {
	peer := c.GetDestination()
	if s.clientOnly {
		if !s.counts || calls > clientCalls {
			return
		}
		peer = c.GetSource()
	}
	if peer == nil || peer.Coverage == nil || f.coverage != nil && s.nanos < last {
		return
	}
	f.coverage = peer.Coverage
}
