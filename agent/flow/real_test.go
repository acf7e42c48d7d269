package flow

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spile/spile/agent/chunk"
	"github.com/spile/spile/agent/parse"
)

// tap shows what a connection of a real HTTP stack moves, as the kernel would: a receive when it ended, a send when it
// began. Both ends of a connection feed one Flow.
type tap struct {
	net.Conn
	*tapped
	id     chunk.StreamID
	client bool
	offset [2]uint64
}

type tapped struct {
	mu    sync.Mutex
	flow  *Flow
	begun time.Time
	next  chunk.StreamID
}

func (t *tapped) wrap(c net.Conn, client bool) net.Conn {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.next++
	return &tap{Conn: c, tapped: t, id: t.next, client: client}
}

func (t *tap) show(d chunk.Direction, b []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := chunk.Chunk{
		Kind: chunk.Data, Direction: d, Flags: chunk.Fresh, Time: time.Since(t.begun), Stream: t.id,
		Offset: t.offset[d], Length: uint32(len(b)), Data: bytes.Clone(b),
	}
	t.offset[d] += uint64(len(b))
	t.flow.Feed(&c)
}

func (t *tap) Read(b []byte) (int, error) {
	n, err := t.Conn.Read(b)
	if n > 0 {
		t.show(chunk.Ingress, b[:n])
	}
	return n, err
}

func (t *tap) Write(b []byte) (int, error) {
	t.show(chunk.Egress, b)
	return t.Conn.Write(b)
}

type tapListener struct {
	net.Listener
	*tapped
}

func (l tapListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.wrap(c, false), nil
}

// Go's own server and client, many at once: each end must see every call once, and as it was.
func TestRealStacks(t *testing.T) {
	const workers, each = 8, 25
	for _, version := range []int{1, 2} {
		t.Run(fmt.Sprintf("http%d", version), func(t *testing.T) {
			seen := map[bool]map[string]int{false: {}, true: {}}
			shared := &tapped{begun: time.Now()}
			shared.flow = New(Config{Emit: func(s *Stream, x *parse.Exchange) {
				seen[s.Client][strings.Clone(x.Request.Target)]++
				if got := field(x.Response, "x-of"); got != x.Request.Target {
					t.Errorf("%s was given the response to %s", x.Request.Target, got)
				}
				if x.Request.Method == "POST" && (x.Request.BodyBytes != 3000 || !bytes.Equal(x.Request.Body, x.Response.Body)) {
					t.Errorf("%s: %d bytes in, %d out", x.Request.Target, x.Request.BodyBytes, x.Response.BodyBytes)
				}
				if !x.Request.Complete || !x.Response.Complete {
					t.Errorf("%s is not complete", x.Request.Target)
				}
			}})
			protocols := new(http.Protocols)
			protocols.SetHTTP1(version == 1)
			protocols.SetUnencryptedHTTP2(version == 2)
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			server := &http.Server{Protocols: protocols, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("X-Of", r.RequestURI)
				_, _ = io.Copy(w, r.Body)
			})}
			done := make(chan error, 1)
			go func() { done <- server.Serve(tapListener{listener, shared}) }()
			dial := func(network, address string) (net.Conn, error) {
				c, err := net.Dial(network, address)
				if err != nil {
					return nil, err
				}
				return shared.wrap(c, true), nil
			}
			client := &http.Client{Transport: &http.Transport{Protocols: protocols, Dial: dial, MaxIdleConnsPerHost: workers}}
			var group sync.WaitGroup
			for worker := range workers {
				group.Go(func() {
					for i := range each {
						method, body := []string{"GET", "POST", "HEAD"}[i%3], io.Reader(nil)
						if method == "POST" {
							body = strings.NewReader(strings.Repeat("p", 3000))
						}
						url := fmt.Sprintf("http://%s/%d/%d", listener.Addr(), worker, i)
						req, err := http.NewRequest(method, url, body)
						if err != nil {
							t.Error(err)
							return
						}
						resp, err := client.Do(req)
						if err != nil {
							t.Error(err)
							return
						}
						_, _ = io.Copy(io.Discard, resp.Body)
						_ = resp.Body.Close()
					}
				})
			}
			group.Wait()
			client.CloseIdleConnections()
			_ = server.Close()
			<-done
			shared.mu.Lock()
			defer shared.mu.Unlock()
			shared.flow.Flush()
			for _, end := range []bool{false, true} {
				if len(seen[end]) != workers*each {
					t.Errorf("client %v: %d of %d calls", end, len(seen[end]), workers*each)
				}
			}
			if got := shared.flow.Counts(); got.Calls != 2*workers*each || got.Lost()+got.Unanswered+got.Malformed+got.Gaps != 0 {
				t.Errorf("%+v", got)
			}
		})
	}
}
