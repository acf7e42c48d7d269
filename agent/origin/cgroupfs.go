package origin

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// lookAgain is how long after a search of the whole tree the next one is made.
	lookAgain = 10 * time.Second
	// maxPaths bounds the search, and what is remembered.
	maxPaths = 16384
)

// Cgroups finds the paths of cgroups. The id of a cgroup v2 is the inode of its directory (kernfs, on 64-bit machines). A
// path stays known when its cgroup is gone, until there is no room: what a cgroup lost is told after its end.
type Cgroups struct {
	Root string // where cgroup v2 is mounted; "" = nowhere

	mu     sync.Mutex
	paths  map[uint64]string
	looked time.Time
}

// cgroup2Magic is the type of its file system (linux/magic.h).
const cgroup2Magic = 0x63677270

// NewCgroups looks where this host mounts cgroup v2: alone, or beside the older hierarchies. Where it does not, no cgroup
// has a path.
func NewCgroups() *Cgroups {
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		var fs syscall.Statfs_t
		if syscall.Statfs(root, &fs) == nil && fs.Type == cgroup2Magic {
			return &Cgroups{Root: root}
		}
	}
	return &Cgroups{}
}

// Path is the path below the root of the hierarchy, "/" for the root itself; of a cgroup that cannot be found, "cgroup <id>".
func (c *Cgroups) Path(id uint64) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.paths[id]; !known && id != 0 && c.Root != "" && time.Since(c.looked) >= lookAgain {
		c.look()
		c.looked = time.Now()
	}
	if path, known := c.paths[id]; known {
		return path
	}
	return fmt.Sprintf("cgroup %d", id)
}

// look walks the tree.
func (c *Cgroups) look() {
	if c.paths == nil || len(c.paths) >= maxPaths {
		c.paths = map[uint64]string{}
	}
	// What cannot be read has no name; the rest has.
	_ = filepath.WalkDir(c.Root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil
		}
		if len(c.paths) >= maxPaths {
			return fs.SkipAll
		}
		info, err := d.Info()
		if err != nil {
			return nil // it went meanwhile
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			c.paths[st.Ino] = "/" + strings.ToValidUTF8(strings.TrimPrefix(strings.TrimPrefix(path, c.Root), "/"), "\uFFFD")
		}
		return nil
	})
}
