// Command serve is the Go server of `make bench`: HTTPS, and every file of a directory as a JSON reply from memory.
//
//	serve HOST:PORT CERT KEY DIRECTORY
package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
)

func main() {
	if len(os.Args) != 5 {
		fmt.Fprintln(os.Stderr, "usage: serve HOST:PORT CERT KEY DIRECTORY")
		os.Exit(2)
	}
	fmt.Fprintln(os.Stderr, "serve:", serve(os.Args[1], os.Args[2], os.Args[3], os.Args[4]))
	os.Exit(1)
}

func serve(address, cert, key, dir string) error {
	files, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("list the pages: %w", err)
	}
	for _, f := range files {
		page, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			return fmt.Errorf("read a page: %w", err)
		}
		http.HandleFunc("GET /pages/"+f.Name(), func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Length", strconv.Itoa(len(page)))
			w.Write(page) // the client may be gone
		})
	}
	return http.ListenAndServeTLS(address, cert, key, nil)
}
