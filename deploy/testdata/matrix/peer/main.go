// Command peer is one row of the program matrix: a TLS server or client of Go's standard library, built by several
// toolchains in several link modes. `peer serve h1|h2 ADDRESS CERT KEY`, `peer call h1|h2 ADDRESS`.
//
// A client reads lines "PREFIX CONNECTIONS REQUESTS PAUSE_MS" and answers each with "ports P..." and "done", or with an
// error and an exit status. "moved P N Q": from request N on the connection of port P was another one, of port Q. All connections of a line are open before the first request. Every request's path tells the
// port that its connection has on this side: /PREFIX/PORT/N.
package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// sizes of the answers to request N, by N%4. Request 2 is a POST, request 3 asks for what is not there.
var sizes = [4]int{40, 20000, 16, 4}

func body(n int) []byte {
	return []byte(`{"a":"` + strings.Repeat("x", sizes[n%4]-8) + `"}`)
}

func answer(w http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	n, _ := strconv.Atoi(r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:])
	if n%4 == 3 {
		w.Header().Set("Content-Type", "text/plain")
		w.WriteHeader(404)
		io.WriteString(w, "none")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(sizes[n%4]))
	w.Write(body(n))
}

func main() {
	verb, mode, address := os.Args[1], os.Args[2], os.Args[3]
	if verb == "serve" {
		s := http.Server{Addr: address, Handler: http.HandlerFunc(answer)}
		if mode == "h1" {
			s.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){}
		}
		check(s.ListenAndServeTLS(os.Args[4], os.Args[5]))
	}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var prefix string
		var conns, requests, pause int
		_, err := fmt.Sscan(lines.Text(), &prefix, &conns, &requests, &pause)
		check(err)
		round(mode, address, prefix, conns, requests, time.Duration(pause)*time.Millisecond)
	}
}

func check(err error) {
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
}

func round(mode, address, prefix string, conns, requests int, pause time.Duration) {
	clients := make([]*conn, conns)
	each(conns, 32, func(i int) { clients[i] = dial(mode, address) })
	each(conns, conns, func(i int) {
		c := clients[i]
		width := 1
		if mode == "h2" {
			width = 4
		}
		each(requests, width, func(n int) {
			path := func() string { return fmt.Sprintf("https://%s/%s/%d/%d", address, prefix, c.port, n) }
			if c.ask(path(), n) != nil {
				next := dial(mode, address)
				c.http, c.port = next.http, next.port
				fmt.Println("moved", c.first, n, c.port)
				check(c.ask(path(), n))
			}
			time.Sleep(pause)
		})
	})
	fmt.Print("ports")
	for _, c := range clients {
		fmt.Print(" ", c.first)
		c.http.CloseIdleConnections()
	}
	fmt.Println("\ndone")
}

// each calls f for 0 to n-1 in width goroutines.
func each(n, width int, f func(int)) {
	next := make(chan int)
	var all sync.WaitGroup
	for i := 0; i < width; i++ {
		all.Add(1)
		go func() {
			defer all.Done()
			for i := range next {
				f(i)
			}
		}()
	}
	for i := 0; i < n; i++ {
		next <- i
	}
	close(next)
	all.Wait()
}

// conn is a client that has exactly one connection.
type conn struct {
	http  *http.Client
	port  int
	first int // the port that it began with
}

// errClosed: net/http gives up a connection whose request was answered 50 ms before it had finished to write it.
var errClosed = errors.New("the connection was closed")

func dial(mode, address string) *conn {
	protocol := map[string]string{"h1": "http/1.1", "h2": "h2"}[mode]
	c, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{protocol}})
	check(err)
	if got := c.ConnectionState().NegotiatedProtocol; mode == "h2" && got != "h2" {
		check(fmt.Errorf("negotiated %q", got))
	}
	used := false
	t := &http.Transport{ForceAttemptHTTP2: mode == "h2", MaxConnsPerHost: 1, DialTLSContext: func(context.Context, string, string) (net.Conn, error) {
		if used {
			return nil, errClosed
		}
		used = true
		return c, nil
	}}
	port := c.LocalAddr().(*net.TCPAddr).Port
	return &conn{&http.Client{Transport: t, Timeout: 60 * time.Second}, port, port}
}

func (c *conn) ask(url string, n int) error {
	req, err := http.NewRequest("GET", url, nil)
	check(err)
	if n%4 == 2 {
		req, err = http.NewRequest("POST", url, bytes.NewReader([]byte(`{"b":"`+strings.Repeat("y", 2992)+`"}`)))
		check(err)
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := c.http.Do(req)
	if errors.Is(err, errClosed) {
		return err
	}
	check(err)
	got, err := io.ReadAll(res.Body)
	check(err)
	res.Body.Close()
	if want := map[bool]int{false: 200, true: 404}[n%4 == 3]; res.StatusCode != want || n%4 < 2 && len(got) != sizes[n%4] {
		check(fmt.Errorf("%s: status %d, %d bytes", url, res.StatusCode, len(got)))
	}
	return nil
}
