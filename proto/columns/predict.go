package columns

import v1 "github.com/spile/spile/proto/spile/v1"

// Columns of one call say much about each other: a destination has one authority and one TLS
// configuration, a principal one session and one credential, a request shape one response shape. An
// entropy coder sees one column at a time, so this is taken out before it: a dependent column holds
// 0 where the value is the one that last came with the same value of its context (0 at first), else
// 1 + the zig-zag difference from the context: dictionaries grow side by side, so it is small.

// dependent pairs each predicted column with its context, in the order of encoding.
func dependent(c *v1.Columns) [][2][]uint32 {
	return [][2][]uint32{
		{c.Authorities, c.Destinations}, {c.Tls, c.Destinations}, {c.Services, c.Destinations}, {c.Protocols, c.Destinations},
		{c.Credentials, c.Principals}, {c.Sessions, c.Principals}, {c.Auth, c.Principals},
		{c.Responses, c.Requests}, {c.Methods, c.Responses}, {c.Routes, c.Responses},
	}
}

// steady pairs each column that keeps its value, or nearly, for each value of its context: it holds zig-zag differences from
// the value that last came with the same context, at first from the one before.
func steady(c *v1.Columns) [][2][]uint32 {
	return [][2][]uint32{{c.SourceCoverages, c.Sources}, {c.DestinationCoverages, c.Destinations}}
}

// ascending lists the columns in which most values are new to the dictionary, one more than the last.
func ascending(c *v1.Columns) [][]uint32 { return [][]uint32{c.PathSegments, c.FieldHashes} }

// predict rewrites the columns of c for storage; restore undoes it. Values are below 2^31.
func predict(c *v1.Columns, last map[uint32]uint32) {
	pairs := dependent(c)
	for i := len(pairs) - 1; i >= 0; i-- { // A context is still plain when its dependents are done.
		column, context := pairs[i][0], pairs[i][1]
		clear(last)
		for k, v := range column {
			if last[context[k]] == v {
				column[k] = 0
			} else {
				last[context[k]] = v
				column[k] = 1 + zigzag(v-context[k])
			}
		}
	}
	for _, pair := range steady(c) {
		column, context := pair[0], pair[1]
		clear(last)
		before := uint32(0)
		for k, v := range column {
			if from, known := last[context[k]]; known {
				before = from
			}
			column[k] = zigzag(v - before)
			last[context[k]], before = v, v
		}
	}
	for _, column := range ascending(c) {
		top := uint32(0)
		for k, v := range column {
			if v > top {
				column[k], top = 2*(v-top)-1, v
			} else {
				column[k] = 2 * v
			}
		}
	}
}

// restore expects columns of equal length and gives, on damaged input, values that are checked later.
func restore(c *v1.Columns) {
	last := map[uint32]uint32{}
	for _, pair := range dependent(c) {
		column, context := pair[0], pair[1]
		clear(last)
		for k, v := range column {
			if v == 0 {
				column[k] = last[context[k]]
			} else {
				v = unzigzag(v-1) + context[k]
				column[k] = v
				last[context[k]] = v
			}
		}
	}
	for _, pair := range steady(c) {
		column, context := pair[0], pair[1]
		clear(last)
		before := uint32(0)
		for k, v := range column {
			if from, known := last[context[k]]; known {
				before = from
			}
			before += unzigzag(v)
			column[k], last[context[k]] = before, before
		}
	}
	for _, column := range ascending(c) {
		top := uint32(0)
		for k, v := range column {
			if v&1 == 1 {
				top += v/2 + 1
				column[k] = top
			} else {
				column[k] = v / 2
			}
		}
	}
}

// zigzag takes a difference modulo 2^32 and keeps small ones small in both directions.
func zigzag(d uint32) uint32 { return d<<1 ^ uint32(int32(d)>>31) }

func unzigzag(z uint32) uint32 { return z>>1 ^ -(z & 1) }
