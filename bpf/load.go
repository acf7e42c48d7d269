package bpf

import (
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
)

// Options say what to watch and how much of it to take. The zero value watches everything.
type Options struct {
	Select        Selector
	RingBytes     int      // of the data ring, a power of two; 0 = 16 MiB
	CaptureBytes  int      // at most per read or write; 0 = 64 KiB
	MessageBytes  int      // at most per message of HTTP/1; 0 = 64 KiB
	BudgetBytes   int64    // at most per second and cgroup; 0 = no limit
	BodyBytes     int64    // the same of messages beyond their first 4 KiB, which are cut; 0 = no limit
	SocketRung    string   // one of Rungs()'s values for "socket"; "" = the best that this kernel takes
	NoUprobeMulti bool     // attach by perf events even where uprobe_multi exists
	ExcludePIDs   []uint32 // never watched, besides this process
}

const (
	defaultRingBytes    = 16 << 20
	minRingBytes        = 64 << 10
	maxRingBytes        = 1 << 30
	defaultCaptureBytes = 64 << 10
	maxCaptureBytes     = 256 << 10
	defaultMessageBytes = 64 << 10
	maxMessageBytes     = 1 << 30
	maxBudgetBytes      = 1 << 40 // what a second's worth in microseconds may be multiplied with
)

// Objects are the loaded programs, their maps and the links that hold them in place.
type Objects struct {
	collections        []*ebpf.Collection
	maps               map[string]*ebpf.Map
	programs           map[string]*ebpf.Program
	links              []link.Link
	counts             []countName
	rungs              map[string]string
	uprobeMulti        bool
	policy, mutes      uint32              // versions of the last SetShed and of the last Mute
	netns              map[uint32]struct{} // namespaces to include, for Processes; nil = all
	pids, includesPIDs bool                // rules about processes exist; inclusions among them
}

// Load loads the programs, writes the selection and only then attaches the hooks of sockets and processes. The
// programs of TLS libraries are loaded and wait for Program.
func Load(options Options) (*Objects, error) {
	o := &Objects{rungs: map[string]string{}, maps: map[string]*ebpf.Map{}, programs: map[string]*ebpf.Program{}}
	if err := o.load(options); err != nil {
		return nil, errors.Join(explain(err), o.Close())
	}
	return o, nil
}

func (o *Objects) load(options Options) error {
	if err := options.fill(); err != nil {
		return err
	}
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoBTF, err)
	}
	// A kernel before 5.11 counts maps against RLIMIT_MEMLOCK; later ones leave it alone.
	if err := rlimit.RemoveMemlock(); err != nil {
		return fmt.Errorf("raise the limit of locked memory: %w", err)
	}
	specs, err := loadSpecs(options)
	if err != nil {
		return err
	}
	if o.counts, err = countNames(specs.proc); err != nil {
		return err
	}
	if err := o.add(specs.proc, "the programs of processes"); err != nil {
		return err
	}
	if err := o.openLosses(); err != nil {
		return err
	}
	if err := o.fillSelection(options); err != nil {
		return err
	}
	if err := o.attachProcesses(options.Select); err != nil {
		return err
	}
	// The verifier takes half a second for either: they go side by side, on the maps of the programs of processes.
	tls := &Objects{maps: maps.Clone(o.maps), programs: map[string]*ebpf.Program{}, rungs: map[string]string{}}
	loaded := make(chan error, 1)
	go func() { loaded <- tls.loadTLS(specs, options.NoUprobeMulti) }()
	err = o.attachSockets(specs.sock, kernel, options.SocketRung)
	tlsErr := <-loaded
	o.join(tls)
	if err != nil {
		return err
	}
	return tlsErr
}

// join takes over what was loaded side by side.
func (o *Objects) join(other *Objects) {
	o.collections = append(o.collections, other.collections...)
	maps.Copy(o.maps, other.maps)
	maps.Copy(o.programs, other.programs)
	maps.Copy(o.rungs, other.rungs)
	o.uprobeMulti = other.uprobeMulti
}

func (o *Options) fill() error {
	if o.RingBytes == 0 {
		o.RingBytes = defaultRingBytes
	}
	if o.RingBytes < minRingBytes || o.RingBytes > maxRingBytes || o.RingBytes&(o.RingBytes-1) != 0 {
		return fmt.Errorf("%w: the ring takes a power of two from %d to %d bytes, not %d", ErrOption, minRingBytes, maxRingBytes, o.RingBytes)
	}
	if o.CaptureBytes == 0 {
		o.CaptureBytes = defaultCaptureBytes
	}
	if o.CaptureBytes < 0 || o.CaptureBytes > maxCaptureBytes {
		return fmt.Errorf("%w: a call is captured up to 1 to %d bytes, not %d", ErrOption, maxCaptureBytes, o.CaptureBytes)
	}
	if o.MessageBytes == 0 {
		o.MessageBytes = defaultMessageBytes
	}
	if o.MessageBytes < 0 || o.MessageBytes > maxMessageBytes {
		return fmt.Errorf("%w: a message is captured up to 1 to %d bytes, not %d", ErrOption, maxMessageBytes, o.MessageBytes)
	}
	if o.BudgetBytes < 0 || o.BudgetBytes > maxBudgetBytes {
		return fmt.Errorf("%w: a budget is 0 (none) to %d bytes a second, not %d", ErrOption, int64(maxBudgetBytes), o.BudgetBytes)
	}
	if o.BodyBytes < 0 || o.BodyBytes > maxBudgetBytes {
		return fmt.Errorf("%w: a budget of bodies is 0 (none) to %d bytes a second, not %d", ErrOption, int64(maxBudgetBytes), o.BodyBytes)
	}
	return o.Select.check()
}

type specs struct {
	proc, sock, tls, gotls *ebpf.CollectionSpec
}

func loadSpecs(options Options) (s specs, err error) {
	include, exclude := options.Select.Include.kinds(), options.Select.Exclude.kinds()
	for _, each := range []struct {
		into *(*ebpf.CollectionSpec)
		load func() (*ebpf.CollectionSpec, error)
	}{{&s.proc, loadProc}, {&s.sock, loadSock}, {&s.tls, loadTls}, {&s.gotls, loadGotls}} {
		spec, err := each.load()
		if err != nil {
			return s, fmt.Errorf("read the embedded objects: %w", err)
		}
		spec.Maps["data_ring"].MaxEntries = uint32(options.RingBytes)
		for name, value := range map[string]any{
			"include_kinds":   include,
			"exclude_kinds":   exclude,
			"include_cgroups": uint32(len(options.Select.Include.CgroupFDs)),
			"exclude_cgroups": uint32(len(options.Select.Exclude.CgroupFDs)),
			"capture_bytes":   uint32(options.CaptureBytes),
			"message_bytes":   uint32(options.MessageBytes),
			"budget_bytes":    uint64(options.BudgetBytes),
			"body_bytes":      uint64(options.BodyBytes),
			"pressure_bytes":  uint64(options.RingBytes) / 4 * 3,
			"share_bytes":     uint64(options.RingBytes) / 16,
		} {
			// An object has only the variables that its programs use.
			if v := spec.Variables[name]; v != nil {
				if err := v.Set(value); err != nil {
					return s, fmt.Errorf("set %s: %w", name, err)
				}
			}
		}
		*each.into = spec
	}
	return s, nil
}

// add loads a collection on the maps of those loaded before it.
func (o *Objects) add(spec *ebpf.CollectionSpec, what string) error {
	shared := map[string]*ebpf.Map{}
	for name := range spec.Maps {
		if m := o.maps[name]; m != nil {
			shared[name] = m
		}
	}
	c, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: shared})
	if err != nil {
		return fmt.Errorf("load %s: %w", what, err)
	}
	o.collections = append(o.collections, c)
	for name, m := range c.Maps {
		// Each object has read-only data of its own.
		if shared[name] == nil && !strings.HasPrefix(name, ".") {
			o.maps[name] = m
		}
	}
	maps.Copy(o.programs, c.Programs)
	return nil
}

func (o *Objects) loadTLS(s specs, noMulti bool) error {
	o.uprobeMulti = !noMulti && features.HaveBPFLinkUprobeMulti() == nil
	o.rungs["uprobe"] = "perf"
	if o.uprobeMulti {
		o.rungs["uprobe"] = "uprobe_multi"
	}
	for _, part := range []struct {
		spec *ebpf.CollectionSpec
		what string
	}{{s.tls, "the programs of C TLS libraries"}, {s.gotls, "the programs of Go's TLS"}} {
		for _, program := range part.spec.Programs {
			if o.uprobeMulti {
				program.AttachType = ebpf.AttachTraceUprobeMulti
			}
		}
		if err := o.add(part.spec, part.what); err != nil {
			return err
		}
	}
	// One program serves all returns; it has a name for each entry, so that a table of probes can pair them.
	for _, function := range []string{"read", "read_ex", "write", "write_ex", "handshake"} {
		o.programs["ssl_"+function+"_exit"] = o.programs["ssl_exit"]
	}
	return nil
}

// Program returns a program for user space to attach, such as "ssl_read_enter", or nil. It stays Objects's.
func (o *Objects) Program(name string) *ebpf.Program { return o.programs[name] }

// UprobeMulti reports whether the programs are to be attached by uprobe_multi; otherwise by perf events.
func (o *Objects) UprobeMulti() bool { return o.uprobeMulti }

// Rungs names the hooks in use: "socket" is tp_btf, kprobe or syscall, "uprobe" is uprobe_multi or perf.
func (o *Objects) Rungs() map[string]string { return maps.Clone(o.rungs) }

// Close detaches everything and frees the maps.
func (o *Objects) Close() error {
	var errs []error
	for _, l := range o.links {
		errs = append(errs, l.Close())
	}
	o.links = nil
	for _, c := range o.collections {
		c.Close()
	}
	o.collections = nil
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("detach: %w", err)
	}
	return nil
}
