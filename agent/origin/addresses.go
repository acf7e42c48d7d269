package origin

import (
	"context"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
)

// Addresses are the addresses of this network namespace, kept up to date by Run.
type Addresses struct {
	set atomic.Pointer[map[netip.Addr]struct{}]
}

// refreshEvery bounds how long a change may go unnoticed when the kernel's message about it was lost.
const refreshEvery = 30 * time.Second

// NewAddresses reads the addresses.
func NewAddresses() (*Addresses, error) {
	a := &Addresses{}
	return a, a.refresh()
}

// IsLocal reports whether an address belongs to this host: loopback always does.
func (a *Addresses) IsLocal(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	if addr.IsLoopback() {
		return true
	}
	_, ok := (*a.set.Load())[addr]
	return ok
}

func (a *Addresses) refresh() error {
	list, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		a.set.CompareAndSwap(nil, &map[netip.Addr]struct{}{})
		return fmt.Errorf("list local addresses: %w", err)
	}
	set := make(map[netip.Addr]struct{}, len(list))
	for _, entry := range list {
		if addr, ok := netip.AddrFromSlice(entry.IP); ok {
			set[addr.Unmap()] = struct{}{}
		}
	}
	a.set.Store(&set)
	return nil
}

// Run follows changes until ctx ends.
func (a *Addresses) Run(ctx context.Context) error {
	updates := make(chan netlink.AddrUpdate, 64)
	done := make(chan struct{})
	defer close(done)
	// Without the subscription the ticker alone keeps the list fresh, only later.
	if err := netlink.AddrSubscribe(updates, done); err != nil {
		updates = nil
	}
	ticker := time.NewTicker(refreshEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		case _, ok := <-updates:
			if !ok {
				updates = nil
				continue
			}
		}
		// A failed listing keeps the list that was; the next one comes.
		_ = a.refresh()
	}
}
