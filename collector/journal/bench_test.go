package journal

import (
	"fmt"
	"sync/atomic"
	"testing"
)

// BenchmarkAppend is one record of 45 KB (1,000 calls) to disk, by one caller and by 16.
func BenchmarkAppend(b *testing.B) {
	for _, callers := range []int{1, 16} {
		b.Run(fmt.Sprint("callers=", callers), func(b *testing.B) {
			j := open(b, b.TempDir())
			payload := string(make([]byte, 45_000))
			var n atomic.Uint64
			b.SetParallelism(callers)
			b.SetBytes(int64(len(payload)))
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					i := n.Add(1)
					append1(b, j, int(i)%Partitions, record("n1", i, payload))
				}
			})
		})
	}
}

// BenchmarkCommit is one commit of so many entries of 4 KB.
func BenchmarkCommit(b *testing.B) {
	for _, entries := range []int{2, 20, 200} {
		b.Run(fmt.Sprint("entries=", entries), func(b *testing.B) {
			j := open(b, b.TempDir())
			list := make([]Entry, entries)
			for i := range list {
				list[i] = Entry{fmt.Sprint("ep.", i), make([]byte, 4096)}
			}
			var r uint64
			var err error
			for b.Loop() {
				if r, err = j.Commit(b.Context(), 0, r, list, []byte("m")); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkLoad is a partition with 10,000 findings of 1 KB and 280 buckets of 10 KB.
func BenchmarkLoad(b *testing.B) {
	j := open(b, b.TempDir())
	var r uint64
	for n := 0; n < 10_280; {
		var list []Entry
		for ; len(list) < MaxEntries && n < 10_280; n++ {
			if n < 280 {
				list = append(list, Entry{fmt.Sprint("ep.", n), make([]byte, 10_000)})
			} else {
				list = append(list, Entry{fmt.Sprint("fi.", n), make([]byte, 1000)})
			}
		}
		var err error
		if r, err = j.Commit(b.Context(), 0, r, list, []byte("m")); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if s := load(b, j, 0); len(s.Entries) != 10_280 {
			b.Fatal(len(s.Entries))
		}
	}
}
