package bpf

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const receiversPort = "SPILE_TEST_RECEIVERS"

// TestReceivers is the process of TestBlockedReceivers: a thread for each connection, as in a server of the old school.
func TestReceivers(t *testing.T) {
	port, err := strconv.Atoi(os.Getenv(receiversPort))
	if err != nil {
		t.Skip("runs as a child of TestBlockedReceivers")
	}
	var all sync.WaitGroup
	for i := range receivers {
		all.Go(func() {
			runtime.LockOSThread()
			if err := ask(port, i); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

// ask blocks in recv, which package net never does.
func ask(port, i int) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return err
	}
	if _, err := unix.Write(fd, fmt.Appendf(nil, "GET /%d HTTP/1.1\r\nHost: x\r\n\r\n", i)); err != nil {
		return err
	}
	var buf [4096]byte
	n, _, err := unix.Recvfrom(fd, buf[:], 0)
	if err == nil && !strings.Contains(string(buf[:n]), fmt.Sprintf("answer %d.", i)) {
		err = fmt.Errorf("received %q", buf[:n])
	}
	return err
}

const receivers = 40

// More threads wait in recv than a kretprobe has room for by default, then all are served: each answer is seen.
func TestBlockedReceivers(t *testing.T) {
	eachRung(t, func(t *testing.T, rung string) {
		tp := &tap{Objects: load(t, Options{SocketRung: rung}), t: t, stopped: make(chan struct{})}
		tp.read()
		blockedReceivers(t, tp)
	})
}

func blockedReceivers(t *testing.T, tp *tap) {
	t.Helper()
	var asked sync.WaitGroup
	asked.Add(receivers)
	server, _ := serve(t, false, func(w http.ResponseWriter, r *http.Request) {
		asked.Done()
		asked.Wait()
		_, _ = io.WriteString(w, "answer "+r.URL.Path[1:]+".")
	})
	c := exec.Command("/proc/self/exe", "-test.run=^TestReceivers$", "-test.count=1")
	c.Env = append(os.Environ(), fmt.Sprintf("%s=%d", receiversPort, server.Listener.Addr().(*net.TCPAddr).Port))
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	seen := 0
	for _, s := range of(talks(t, tp.settle()), "exe", layerSocket) {
		if strings.Contains(string(s.side[ingress].data), "answer ") && s.side[ingress].heads == 1 {
			seen++
		}
	}
	if seen != receivers || tp.count("returns") != 0 {
		t.Errorf("%d answers seen, want %d; lost %v", seen, receivers, tp.lost())
	}
	if n := entries(t, tp.maps["pendings"]); n != 0 {
		t.Errorf("%d calls are still thought to be under way", n)
	}
}
