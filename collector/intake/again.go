package intake

import "slices"

const (
	// againBatches below the highest number of an epoch are told apart; an agent sends again what has no receipt, which its
	// credit keeps to far fewer.
	againBatches = 1024
	// againEpochs of an agent are remembered: this run of it, and earlier ones whose spool it empties.
	againEpochs = 8
)

// taken remembers which batches of an agent were counted, the epoch that was heard last at the end. It decides about figures
// only: who reads the journal tells the second copy of a record apart by itself.
type taken []*epochTaken

type epochTaken struct {
	epoch, high uint64
	bits        [againBatches / 64]uint64 // batch n has bit n mod againBatches, for those up to high
}

// first reports whether a batch comes for the first time, and remembers it. What is too far below the newest of its epoch to
// be remembered was counted when it came in its order.
func (t *taken) first(epoch, seq uint64) bool {
	i := slices.IndexFunc(*t, func(e *epochTaken) bool { return e.epoch == epoch })
	var e *epochTaken
	if i >= 0 {
		e = (*t)[i]
		*t = slices.Delete(*t, i, i+1)
	} else {
		e = &epochTaken{epoch: epoch}
		*t = slices.Delete(*t, 0, max(0, len(*t)+1-againEpochs))
	}
	*t = append(*t, e)
	return e.first(seq)
}

func (e *epochTaken) first(seq uint64) bool {
	at, bit := &e.bits[seq%againBatches/64], uint64(1)<<(seq%64)
	switch {
	case seq > e.high:
		if seq-e.high >= againBatches {
			clear(e.bits[:])
		} else {
			for n := e.high + 1; n < seq; n++ {
				e.bits[n%againBatches/64] &^= 1 << (n % 64)
			}
		}
		e.high = seq
	case e.high-seq >= againBatches || *at&bit != 0:
		return false
	}
	*at |= bit
	return true
}
