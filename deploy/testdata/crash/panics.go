// Command panics serves TLS to itself and then reads from a nil pointer, as a Go program with a bug does.
package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"time"
)

type shop struct{ name string }

func main() {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") }))
	for range 20 {
		resp, err := server.Client().Get(server.URL)
		if err != nil {
			panic(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		time.Sleep(50 * time.Millisecond)
	}
	var s *shop
	fmt.Println(s.name)
}
