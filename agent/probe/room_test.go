package probe

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/spile/spile/agent/target"
)

// filled is a registry with n files of one user in one phase, of which number i was last of use at second i.
func filled(t *testing.T, n int, owner, only uint32, phase Phase) *Registry {
	t.Helper()
	r := registry(t, nobody{}, DefaultTimes())
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range n {
		e := &entry{
			state: State{ID: target.Identity{Dev: 1, Ino: uint64(i + 1)}, Phase: phase}, owner: owner,
			users: map[target.Process]struct{}{}, tried: time.Now().Add(time.Duration(i) * time.Second), idle: time.Now().Add(time.Duration(i) * time.Second),
		}
		if phase != Draining {
			e.users[target.Process{PID: 1}] = struct{}{}
		}
		if only != 0 {
			e.state.Only = only + uint32(i)
		}
		r.files[e.key()] = e
	}
	return r
}

// owned is a file of a user, open.
func owned(t *testing.T, uid int, only uint32) target.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "libssl.so.x")
	if err := os.WriteFile(path, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path, uid, -1); err != nil {
		t.Skipf("chown: %v", err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return target.File{ID: target.Identity{Dev: 2, Ino: 7}, Only: only, Path: path, Handle: f, Problem: os.ErrInvalid}
}

// One user cannot take the room of all: neither with files that are in use, nor with those that are not.
func TestRoom(t *testing.T) {
	const user, other = 1234, 1235
	for name, tc := range map[string]struct {
		n           int
		owner, only uint32
		phase       Phase
		file        target.File
		admitted    bool
		evicted     uint64
	}{
		"room":                                 {maxFiles - 1, 0, 0, Attached, owned(t, 0, 0), true, 0},
		"full":                                 {maxFiles, 0, 0, Attached, owned(t, 0, 0), false, 0},
		"full of what is being attached":       {maxFiles, 0, 0, Attaching, owned(t, 0, 0), false, 0},
		"full of failures":                     {maxFiles, 0, 0, Failed, owned(t, 0, 0), true, 1},
		"full of what nobody maps":             {maxFiles, 0, 0, Draining, owned(t, user, 0), true, 1},
		"one user's share":                     {maxOwned, user, 0, Attached, owned(t, user, 0), false, 0},
		"one user's share less one":            {maxOwned - 1, user, 0, Attached, owned(t, user, 0), true, 0},
		"another's share":                      {maxOwned, user, 0, Attached, owned(t, other, 0), true, 0},
		"root beside it":                       {maxOwned, user, 0, Attached, owned(t, 0, 0), true, 0},
		"one user's failures":                  {maxOwned, user, 0, Failed, owned(t, user, 0), true, 1},
		"single processes of one user":         {maxOwned, user, 9, Attached, owned(t, user, 5), true, 0},
		"too many single processes of his":     {maxOwnedAlone, user, 9, Attached, owned(t, user, 5), false, 0},
		"too many single processes":            {maxAlone, 0, 9, Attached, owned(t, 0, 5), false, 0},
		"a file for all beside these":          {maxAlone, 0, 9, Attached, owned(t, 0, 0), true, 0},
		"what could not be opened is nobody's": {maxOwned, user, 0, Attached, target.File{ID: target.Identity{Ino: 7}, Problem: os.ErrInvalid}, true, 0},
	} {
		r := filled(t, tc.n, tc.owner, tc.only, tc.phase)
		r.Use(target.Process{PID: 2}, tc.file)
		known, attached, reason := r.State(tc.file.ID, 0)
		_, in := r.files[key{tc.file.ID, tc.file.Only}]
		refused := uint64(1)
		if tc.admitted {
			refused = 0
		}
		if in != tc.admitted || r.Refused() != refused || r.Evicted() != tc.evicted {
			t.Errorf("%s: admitted %v, %d refused, %d evicted", name, in, r.Refused(), r.Evicted())
		}
		if tc.file.Only == 0 && (!known || attached || reason == "") {
			t.Errorf("%s: known %v, attached %v, %q", name, known, attached, reason)
		}
		// The oldest goes.
		if _, oldest := r.files[key{id: target.Identity{Dev: 1, Ino: 1}}]; tc.only == 0 && oldest != (tc.evicted == 0) {
			t.Errorf("%s: the oldest is there: %v", name, oldest)
		}
	}
}

// What failed goes before what may come back, however old that is, and who was refused may come in later.
func TestRoomIsMadeByFailuresFirst(t *testing.T) {
	r := filled(t, maxFiles, 0, 0, Draining)
	failed := key{id: target.Identity{Dev: 1, Ino: maxFiles}}
	r.mu.Lock()
	r.files[failed].state.Phase = Failed
	r.mu.Unlock()
	r.Use(target.Process{PID: 2}, owned(t, 0, 0))
	if _, there := r.files[failed]; there || r.Evicted() != 1 {
		t.Errorf("the failure is there: %v, %d evicted", there, r.Evicted())
	}
	full := filled(t, maxFiles, 0, 0, Attached)
	f := owned(t, 0, 0)
	full.Use(target.Process{PID: 2}, f)
	if _, _, reason := full.State(f.ID, 0); reason != noRoom {
		t.Errorf("%q", reason)
	}
	full.Drop(target.Process{PID: 1}, target.Identity{Dev: 1, Ino: 40})
	full.Use(target.Process{PID: 2}, f)
	if _, _, reason := full.State(f.ID, 0); reason == noRoom || full.Refused() != 1 || full.Evicted() != 1 {
		t.Errorf("%q, %d refused, %d evicted", reason, full.Refused(), full.Evicted())
	}
	for i := range uint64(3 * maxRefused) {
		full.mu.Lock()
		full.refuse(key{id: target.Identity{Ino: i}}, noRoom)
		full.mu.Unlock()
	}
	if len(full.refused) > maxRefused {
		t.Errorf("%d are remembered", len(full.refused))
	}
}
