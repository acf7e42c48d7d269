package inventory

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	v1 "github.com/spile/spile/proto/spile/v1"
)

// Bucket is a stored piece of the inventory.
type Bucket struct {
	Key   string
	Value []byte
}

const (
	perBucket = 32
	// Keys of the buckets: a prefix and a number.
	endpointPrefix = "ep."
	servicePrefix  = "sv."
)

// place is where a row is stored.
type place struct{ bucket int }

func (p *place) at() *place { return p }

// packing assigns rows to buckets and knows which of them have changed.
type packing[T interface{ at() *place }] struct {
	buckets map[int][]T
	dirty   map[int]bool
	open    int // the bucket that new rows go to
	n       int
}

func newPacking[T interface{ at() *place }]() packing[T] {
	return packing[T]{buckets: map[int][]T{}, dirty: map[int]bool{}}
}

func (p *packing[T]) len() int { return p.n }

func (p *packing[T]) add(row T) {
	for len(p.buckets[p.open]) >= perBucket {
		p.open++
	}
	p.put(p.open, row)
	p.dirty[p.open] = true
}

func (p *packing[T]) put(bucket int, row T) {
	row.at().bucket = bucket
	p.buckets[bucket] = append(p.buckets[bucket], row)
	p.n++
}

func (p *packing[T]) touch(row T) {
	if b := row.at().bucket; !p.dirty[b] {
		p.dirty[b] = true
	}
}

// take returns the changed buckets in order and forgets that they changed.
func (p *packing[T]) take() []int {
	list := make([]int, 0, len(p.dirty))
	for b := range p.dirty {
		list = append(list, b)
	}
	slices.Sort(list)
	clear(p.dirty)
	return list
}

// Dirty counts the buckets that Flush would return.
func (v *Inventory) Dirty() int {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return len(v.endpoints.dirty) + len(v.rows.dirty)
}

// Flush returns the buckets that changed since the last one. Equal inventories give equal bytes. A caller that fails to
// store them has an inventory ahead of its store: it must make a new one and Restore.
func (v *Inventory) Flush() ([]Bucket, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	var list []Bucket
	for _, b := range v.endpoints.take() {
		var m v1.ListEndpointsResponse
		for _, ep := range v.endpoints.buckets[b] {
			m.Endpoints = append(m.Endpoints, ep.row())
		}
		if err := pack(&list, endpointPrefix, b, &m); err != nil {
			return nil, err
		}
	}
	for _, b := range v.rows.take() {
		var m v1.ListServicesResponse
		for _, svc := range v.rows.buckets[b] {
			m.Services = append(m.Services, svc.row())
		}
		if err := pack(&list, servicePrefix, b, &m); err != nil {
			return nil, err
		}
	}
	return list, nil
}

func pack(list *[]Bucket, prefix string, bucket int, m proto.Message) error {
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode bucket %s%d: %w", prefix, bucket, err)
	}
	*list = append(*list, Bucket{prefix + strconv.Itoa(bucket), value})
	return nil
}

// IsBucket reports whether a key is that of a bucket.
func IsBucket(key string) bool {
	return strings.HasPrefix(key, endpointPrefix) || strings.HasPrefix(key, servicePrefix)
}

// Restore puts stored buckets into a new inventory, in any order. Endpoints beyond limits that were lowered since stay.
func (v *Inventory) Restore(buckets []Bucket) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.services) > 0 {
		return errors.New("restore inventory: it is not empty")
	}
	// An endpoint needs its service.
	for _, b := range buckets {
		if n, ok := strings.CutPrefix(b.Key, servicePrefix); ok {
			if err := v.restoreServices(n, b.Value); err != nil {
				return fmt.Errorf("restore bucket %s: %w", b.Key, err)
			}
		}
	}
	for _, b := range buckets {
		if n, ok := strings.CutPrefix(b.Key, endpointPrefix); ok {
			if err := v.restoreEndpoints(n, b.Value); err != nil {
				return fmt.Errorf("restore bucket %s: %w", b.Key, err)
			}
		}
	}
	return nil
}

func (v *Inventory) restoreServices(number string, value []byte) error {
	bucket, err := strconv.Atoi(number)
	if err != nil {
		return err
	}
	var m v1.ListServicesResponse
	if err := proto.Unmarshal(value, &m); err != nil {
		return err
	}
	for _, r := range m.GetServices() {
		if v.services[r.GetName()] != nil {
			return fmt.Errorf("service %q is there already", r.GetName())
		}
		svc := serviceOf(r)
		v.services[svc.name] = svc
		v.rows.put(bucket, svc)
	}
	return nil
}

func (v *Inventory) restoreEndpoints(number string, value []byte) error {
	bucket, err := strconv.Atoi(number)
	if err != nil {
		return err
	}
	var m v1.ListEndpointsResponse
	if err := proto.Unmarshal(value, &m); err != nil {
		return err
	}
	for _, r := range m.GetEndpoints() {
		svc := v.services[r.GetService()]
		if svc == nil {
			return fmt.Errorf("endpoint %s: no service %q", r.GetId(), r.GetService())
		}
		ep := endpointOf(r)
		if svc.endpoints[ep.key] != nil {
			return fmt.Errorf("endpoint %s is there already", ep.id)
		}
		v.insert(svc, ep)
		v.endpoints.put(bucket, ep)
	}
	return nil
}
