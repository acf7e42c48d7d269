package call

import (
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/spile/spile/proto/spile/v1"
)

const (
	// pooledCalls are what waits for its other end at a time.
	pooledCalls = 256
	// pooledFields of a direction are kept: what most calls need.
	pooledFields = 16
)

// Reuse takes back a call that nobody holds any more: the next one is made of its memory. With all its parts a call is some
// 2 KB, and to find and free them took a third of the agent's time.
func (d *Describer) Reuse(c *v1.Call) {
	if len(d.spare) < pooledCalls {
		d.spare = append(d.spare, c)
	}
}

// blank returns an empty call with all its parts.
func (d *Describer) blank() *v1.Call {
	if n := len(d.spare); n > 0 {
		c := d.spare[n-1]
		d.spare = d.spare[:n-1]
		return empty(c)
	}
	r := &record{}
	r.call.Time, r.call.Duration = &r.time, &r.duration
	r.call.Source, r.call.Destination = &r.source, &r.destination
	r.call.Request, r.call.Response = &r.request, &r.response
	return &r.call
}

// record is what every call has, in one piece of memory.
type record struct {
	call                v1.Call
	time                timestamppb.Timestamp
	duration            durationpb.Duration
	source, destination v1.Peer
	request, response   v1.Content
}

// empty takes everything out of a call but its parts, which are empty, too.
func empty(c *v1.Call) *v1.Call {
	at, took, source, destination, request, response := c.Time, c.Duration, c.Source, c.Destination, c.Request, c.Response
	*c = v1.Call{
		Time: some(at), Duration: some(took), Source: some(source), Destination: some(destination), Request: some(request), Response: some(response),
	}
	*c.Time, *c.Duration = timestamppb.Timestamp{}, durationpb.Duration{}
	*c.Source, *c.Destination = v1.Peer{}, v1.Peer{}
	emptyContent(c.Request)
	emptyContent(c.Response)
	return c
}

func some[T any](p *T) *T {
	if p == nil {
		return new(T)
	}
	return p
}

// emptyContent leaves the memory of numbers, of the media type and of a few fields where content finds it.
func emptyContent(c *v1.Content) {
	fields := c.Fields[:0]
	if cap(fields) > pooledFields {
		fields = nil
	}
	*c = v1.Content{Bytes: c.Bytes, ContentType: c.ContentType, Fields: fields}
}

// addField puts a field at the end of a list, in the place of one that was there in an earlier call, if there is one.
func addField(list []*v1.Field) ([]*v1.Field, *v1.Field) {
	n := len(list)
	if n == cap(list) {
		return appendFields(list, 4)
	}
	list = list[:n+1]
	if list[n] == nil {
		list[n] = new(v1.Field)
	}
	return list, list[n]
}

// appendFields makes room for so many more and adds the first of them.
func appendFields(list []*v1.Field, more int) ([]*v1.Field, *v1.Field) {
	n := len(list)
	grown := make([]*v1.Field, n+more)
	copy(grown, list)
	block := make([]v1.Field, more) // in one piece: they live as long as their call
	for i := range block {
		grown[n+i] = &block[i]
	}
	return grown[:n+1], grown[n]
}
