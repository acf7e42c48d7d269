package bpf

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
)

// The rungs of the socket hook, best first.
const (
	RungTracepoint = "tp_btf"  // sock_send_length and sock_recv_length, Linux 6.3
	RungFexit      = "fexit"   // tcp_sendmsg and tcp_recvmsg; refused where the kernel has no trampolines, or is locked down
	RungKprobe     = "kprobe"  // tcp_sendmsg and tcp_recvmsg; a kernel may be built without kprobes
	RungSyscall    = "syscall" // raw sys_exit; a little of every system call of the host
)

// rung is one way of hooking the bytes of sockets.
type rung struct {
	name     string
	programs map[string]attach
}

// attach puts one program in place.
type attach func(*ebpf.Program) (link.Link, error)

func socketRungs() []rung {
	return []rung{
		{RungTracepoint, map[string]attach{"sock_send": attachTracing, "sock_recv": attachTracing}},
		{RungFexit, map[string]attach{
			"tcp_sendmsg_fexit": attachTracing, "tcp_sendpage_fexit": attachTracing,
			"tcp_recvmsg4_fexit": attachTracing, "tcp_recvmsg5_fexit": attachTracing, "tcp_recvmsg6_fexit": attachTracing,
		}},
		{RungKprobe, map[string]attach{
			"tcp_sendmsg_enter": attachKprobe("tcp_sendmsg"), "tcp_sendmsg_exit": attachKretprobe("tcp_sendmsg"),
			"tcp_recvmsg_enter": attachKprobe("tcp_recvmsg"), "tcp_recvmsg_exit": attachKretprobe("tcp_recvmsg"),
			"tcp_sendpage_enter": optional(attachKprobe("tcp_sendpage")),
			"tcp_sendpage_exit":  optional(attachKretprobe("tcp_sendpage")),
		}},
		{RungSyscall, map[string]attach{"sys_exit": attachRaw("sys_exit")}},
	}
}

// lifeHooks bound the life of a connection on every rung.
func lifeHooks() map[string]attach {
	return map[string]attach{"sock_state": attachTracing, "sock_destroy": attachTracing}
}

// attachSockets climbs down the ladder until a rung holds.
func (o *Objects) attachSockets(spec *ebpf.CollectionSpec, kernel *btf.Spec, want string) error {
	if err := o.loadAndAttach(keep(spec, lifeHooks()), lifeHooks(), "the life of sockets"); err != nil {
		return err
	}
	var refused []error
	for _, r := range socketRungs() {
		if want != "" && r.name != want {
			continue
		}
		if r.name == RungKprobe {
			removeStaleReturns()
		}
		err := missing(kernel, r)
		if err == nil && r.name == RungFexit {
			err = fitFexit(kernel, r.programs)
		}
		if err == nil {
			err = o.loadAndAttach(keep(spec, r.programs), r.programs, "the bytes of sockets by "+r.name)
		}
		if err == nil {
			o.rungs["socket"] = r.name
			return o.findSockets(spec)
		}
		refused = append(refused, err)
	}
	if len(refused) == 0 {
		return fmt.Errorf("%w: no socket rung is called %q", ErrOption, want)
	}
	return fmt.Errorf("%w: %w", ErrNoSocketHook, errors.Join(refused...))
}

// findSockets makes the kernel's table know the connections that are older than the hooks. A kernel that refuses the
// iterator learns of each at its next byte.
func (o *Objects) findSockets(spec *ebpf.CollectionSpec) error {
	o.rungs["open_sockets"] = "next_byte"
	if err := o.add(keep(spec, map[string]attach{"list_sockets": nil}), "the list of open sockets"); err != nil {
		if verifier := (*ebpf.VerifierError)(nil); errors.As(err, &verifier) {
			return err
		}
		return nil
	}
	if _, err := iterate(o.programs["list_sockets"]); err != nil {
		return fmt.Errorf("list open sockets: %w", err)
	}
	o.rungs["open_sockets"] = "task_file"
	return nil
}

// missing says that the kernel lacks a rung, where its types tell.
func missing(kernel *btf.Spec, r rung) error {
	if r.name != RungTracepoint {
		return nil
	}
	var t *btf.Typedef
	if err := kernel.TypeByName("btf_trace_sock_send_length", &t); err != nil {
		return fmt.Errorf("tracepoint sock_send_length (Linux 6.3): %w", err)
	}
	return nil
}

// fitFexit keeps the programs that fit the functions of this kernel: tcp_sendpage went in 6.5, where splice sends by
// tcp_sendmsg, and tcp_recvmsg has lost arguments.
func fitFexit(kernel *btf.Spec, programs map[string]attach) error {
	var f *btf.Func
	if err := kernel.TypeByName("tcp_sendpage", &f); errors.Is(err, btf.ErrNotFound) {
		delete(programs, "tcp_sendpage_fexit")
	} else if err != nil {
		return fmt.Errorf("look for tcp_sendpage: %w", err)
	}
	if err := kernel.TypeByName("tcp_recvmsg", &f); err != nil {
		return fmt.Errorf("look for tcp_recvmsg: %w", err)
	}
	arguments := 0
	if proto, ok := f.Type.(*btf.FuncProto); ok {
		arguments = len(proto.Params)
	}
	fits := fmt.Sprintf("tcp_recvmsg%d_fexit", arguments)
	if programs[fits] == nil {
		return fmt.Errorf("tcp_recvmsg of this kernel has %d arguments, of which nothing is known", arguments)
	}
	for _, name := range []string{"tcp_recvmsg4_fexit", "tcp_recvmsg5_fexit", "tcp_recvmsg6_fexit"} {
		if name != fits {
			delete(programs, name)
		}
	}
	return nil
}

// keep returns the collection with only the named programs.
func keep(spec *ebpf.CollectionSpec, programs map[string]attach) *ebpf.CollectionSpec {
	part := spec.Copy()
	for name := range part.Programs {
		if _, wanted := programs[name]; !wanted {
			delete(part.Programs, name)
		}
	}
	return part
}

// loadAndAttach is all or nothing.
func (o *Objects) loadAndAttach(spec *ebpf.CollectionSpec, hooks map[string]attach, what string) error {
	if err := o.add(spec, what); err != nil {
		return err
	}
	before := len(o.links)
	// A return hook first would see returns without their entries; sorted, "enter" precedes "exit".
	names := slices.Sorted(func(yield func(string) bool) {
		for name := range hooks {
			if !yield(name) {
				return
			}
		}
	})
	for _, name := range names {
		l, err := hooks[name](o.programs[name])
		if err != nil {
			for _, l := range o.links[before:] {
				err = errors.Join(err, l.Close())
			}
			o.links = o.links[:before]
			return fmt.Errorf("attach %s: %w", strings.ReplaceAll(name, "_", " "), err)
		}
		if l != nil {
			o.links = append(o.links, l)
		}
	}
	return nil
}

func attachTracing(p *ebpf.Program) (link.Link, error) {
	return link.AttachTracing(link.TracingOptions{Program: p})
}

func attachRaw(tracepoint string) attach {
	return func(p *ebpf.Program) (link.Link, error) {
		return link.AttachRawTracepoint(link.RawTracepointOptions{Name: tracepoint, Program: p})
	}
}

func attachKprobe(symbol string) attach {
	return func(p *ebpf.Program) (link.Link, error) { return link.Kprobe(symbol, p, nil) }
}

// optional makes a symbol that the kernel does not have no error.
func optional(a attach) attach {
	return func(p *ebpf.Program) (link.Link, error) {
		l, err := a(p)
		if errors.Is(err, os.ErrNotExist) {
			return nil, nil
		}
		return l, err
	}
}
