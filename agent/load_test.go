package main

import (
	"bufio"
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

// pause is between two requests of one connection: the load lasts, and whoever reads it gets to stop in the middle.
const pause = 5 * time.Millisecond

// load is a client whose every connection sends a number of requests that nobody else's does. It waits for a line, then
// prints the port and the number of each connection: PROTOCOL ADDRESS CONNECTIONS.
func load(args []string) error {
	if len(args) != 3 {
		return errors.New("want PROTOCOL ADDRESS CONNECTIONS")
	}
	n, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	fmt.Println("ready")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return err
	}
	lines := make([]string, n)
	errs := make([]error, n)
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() {
			requests := 40 + 3*i
			port, err := talk(args[0], args[1], requests)
			lines[i], errs[i] = fmt.Sprintf("%d %d", port, requests), err
		})
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	fmt.Println(strings.Join(lines, "\n"))
	return nil
}

// talk sends requests on one connection, and says which port it had.
func talk(protocol, address string, requests int) (port uint16, err error) {
	plain, err := net.Dial("tcp", address)
	if err != nil {
		return 0, err
	}
	defer plain.Close()
	port = uint16(plain.LocalAddr().(*net.TCPAddr).Port)
	conn := plain
	version, secure := strings.CutSuffix(protocol, "s")
	if secure {
		conn = tls.Client(plain, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	}
	if version == "h1" {
		return port, turns(conn, requests)
	}
	scheme, protocols := "http", new(http.Protocols)
	if secure {
		scheme = "https"
	}
	protocols.SetHTTP2(secure)
	protocols.SetUnencryptedHTTP2(!secure)
	transport := &http.Transport{
		Protocols: protocols, TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		DialContext: func(context.Context, string, string) (net.Conn, error) { return plain, nil },
	}
	client, err := transport.NewClientConn(context.Background(), scheme, address)
	if err != nil {
		return port, err
	}
	defer client.Close()
	return port, streams(client, scheme, requests)
}

// turns sends one request after the other.
func turns(conn net.Conn, requests int) error {
	in := bufio.NewReader(conn)
	for i := range requests {
		time.Sleep(pause)
		if _, err := fmt.Fprintf(conn, "GET /users/%d HTTP/1.1\r\nHost: a.example\r\nUser-Agent: %s\r\n\r\n", i, strings.Repeat("l", 200)); err != nil {
			return err
		}
		if err := body(http.ReadResponse(in, nil)); err != nil {
			return err
		}
	}
	return nil
}

// streams keeps four requests open.
func streams(client *http.ClientConn, scheme string, requests int) error {
	errs := make([]error, 4)
	var group sync.WaitGroup
	for worker := range 4 {
		group.Go(func() {
			for i := worker; i < requests && errs[worker] == nil; i += 4 {
				time.Sleep(4 * pause)
				req, err := http.NewRequest("GET", fmt.Sprintf("%s://a.example/users/%d", scheme, i), nil)
				if err == nil {
					err = body(client.RoundTrip(req))
				}
				errs[worker] = err
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

func body(resp *http.Response, err error) error {
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}
