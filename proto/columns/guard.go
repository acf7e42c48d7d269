package columns

import "google.golang.org/protobuf/encoding/protowire"

// maxTags bounds the fields of a message, or of all messages of a dictionary, before they are
// unmarshalled: an empty element costs two bytes on the wire and a hundred times that in memory.
const maxTags = 1 << 18

// tags counts the fields of a message with those of the messages inside it down to depth. It stops
// above limit and at what is not wire format, which unmarshalling will refuse.
func tags(b []byte, depth, limit int) int {
	n := 0
	for len(b) > 0 && n <= limit {
		_, kind, size := protowire.ConsumeTag(b)
		if size < 0 {
			return n
		}
		b = b[size:]
		value, size := protowire.ConsumeBytes(b)
		if kind != protowire.BytesType {
			size = protowire.ConsumeFieldValue(1, kind, b)
		}
		if size < 0 {
			return n
		}
		b = b[size:]
		n++
		if kind == protowire.BytesType && depth > 0 {
			n += tags(value, depth-1, limit-n)
		}
	}
	return n
}
