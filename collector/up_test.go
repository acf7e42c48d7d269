package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/spile/spile/collector/identity"
	"github.com/spile/spile/proto/columns"
	v1 "github.com/spile/spile/proto/spile/v1"
)

// TestMain lets this binary also be the agent that `up` starts, and `spile` itself where a test must kill it.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "--collector":
			os.Exit(fakeAgent(os.Args[2], os.Args[4]))
		case "up":
			w := system()
			w.uid, w.runDir = 0, ""
			os.Exit(run(context.Background(), w))
		}
	}
	os.Exit(m.Run())
}

// fakeAgent keeps the agent's side of the contract: address and directory by flags, identity by variables, the end by
// SIGTERM or by end-of-file on the parent's pipe. FAKE_AGENT tells how it misbehaves.
func fakeAgent(collector, data string) int {
	switch os.Getenv("FAKE_AGENT") {
	case "usage":
		fmt.Fprintln(os.Stderr, "spile-agent: --target bogus")
		return 2
	case "no BTF":
		fmt.Fprintln(os.Stderr, "spile-agent: this kernel has no BTF")
		return 1
	}
	note := func(name, text string) { os.WriteFile(filepath.Join(data, name), []byte(text), 0o600) }
	starts, _ := os.ReadFile(filepath.Join(data, "starts"))
	note("starts", string(starts)+"x")
	note("pid", strconv.Itoa(os.Getpid()))
	note("args", strings.Join(os.Args[1:], " "))
	lockdown := os.Getenv("FAKE_AGENT") == "lockdown"
	if err := hello(collector, lockdown); err != nil {
		fmt.Fprintln(os.Stderr, "spile-agent:", err)
		return 1
	}
	if lockdown {
		fmt.Fprintln(os.Stderr, "spile-agent: load the programs: the kernel is locked down")
		return 1
	}
	if os.Getenv("FAKE_AGENT") == "die once" && len(starts) == 0 {
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	end := make(chan string, 2)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	go func() {
		<-signals
		end <- "SIGTERM"
	}()
	fd, _ := strconv.Atoi(os.Getenv("SPILE_PARENT_FD"))
	go func() {
		os.NewFile(uintptr(fd), "parent").Read(make([]byte, 1))
		end <- "orphan"
	}()
	note("end", <-end)
	return 0
}

// hello connects and sends a batch; an agent that only greets has not tried its kernel yet.
func hello(collector string, only bool) error {
	var files [3][]byte
	for i, name := range []string{"SPILE_CERT", "SPILE_KEY", "SPILE_CA"} {
		var err error
		if files[i], err = os.ReadFile(os.Getenv(name)); err != nil {
			return err
		}
	}
	conf, err := identity.Bundle{Cert: files[0], Key: files[1], CA: files[2]}.ClientTLS()
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient("passthrough:///"+collector, grpc.WithTransportCredentials(credentials.NewTLS(conf)))
	if err != nil {
		return err
	}
	stream, err := v1.NewIngestClient(conn).Publish(context.Background())
	if err != nil {
		return err
	}
	enc, err := columns.NewEncoder()
	if err != nil {
		return err
	}
	leak := shopCall("1", "/users/1", 200)
	leak.Auth.Location = "query"
	payload, err := enc.Encode(nil, []*v1.Call{leak})
	if err != nil {
		return err
	}
	epoch := uint64(time.Now().UnixNano())
	messages := []*v1.PublishRequest{
		{Of: &v1.PublishRequest_Hello{Hello: &v1.Hello{Version: "fake", Epoch: epoch}}},
		{Of: &v1.PublishRequest_Health{Health: &v1.Health{Epoch: epoch, Rungs: map[string]string{"socket": "tp_btf"}, Targets: []string{"netns=self"},
			Coverage: []*v1.Coverage{{Pid: 42, Process: "node", Reason: "BoringSSL without symbols"}}}}},
		{Of: &v1.PublishRequest_Batch{Batch: &v1.Batch{Epoch: epoch, Seq: 1, Count: 1, Payload: payload}}},
	}
	answers := 2 // Welcome, then the receipt
	if only {
		messages, answers = messages[:1], 1
	}
	for _, m := range messages {
		if err := stream.Send(m); err != nil {
			return err
		}
	}
	for range answers {
		if _, err := stream.Recv(); err != nil {
			return err
		}
	}
	fmt.Fprintln(os.Stderr, "attached\x1b[31m")
	return nil
}

func upArgs(t *testing.T) (data string, args []string) {
	t.Helper()
	data = t.TempDir()
	return data, []string{"up", "--data", data, "--agent", os.Args[0], "--target", "netns=self", "--node", "here",
		"--listen", "127.0.0.1:0", "--agents-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"}
}

// upHere runs `up` in this process with an agent that misbehaves as told.
func upHere(t *testing.T, misbehave string, more ...string) (r *running) {
	t.Helper()
	data, args := upArgs(t)
	w, out, errs := testWorld("", append(args, more...)...)
	w.uid, w.Env = 0, []string{"FAKE_AGENT=" + misbehave, "PATH=" + os.Getenv("PATH")}
	ctx, cancel := context.WithCancel(context.Background())
	r = &running{t: t, data: data, cancel: cancel, done: make(chan int, 1), out: out, errs: errs}
	go func() { r.done <- run(ctx, w) }()
	t.Cleanup(func() { r.stop() })
	return r
}

func (r *running) note(name string) string {
	b, _ := os.ReadFile(filepath.Join(r.data, "agent", name))
	return string(b)
}

func TestUpShowsWhatItSeesAndWhatNot(t *testing.T) {
	r := upHere(t, "")
	for _, want := range []string{"watching netns=self", "socket=tp_btf", "node (pid 42): BoringSSL without symbols", "finding (", "credential-in-url", "/users/{id}", "curl", "shop.example"} {
		until(t, "up says "+want+":\n"+r.out.String()+r.errs.String(), func() bool { return strings.Contains(r.out.String(), want) })
	}
	if strings.Count(r.out.String(), "BoringSSL") != 1 {
		t.Errorf("a process that is not covered is told more than once:\n%s", r.out)
	}
	if got := r.note("args"); !strings.Contains(got, "--collector 127.0.0.1:") || !strings.Contains(got, "--target netns=self") {
		t.Errorf("the agent got %q", got)
	}
	if !strings.Contains(r.errs.String(), "agent: attached\ufffd") || strings.Contains(r.errs.String(), "\x1b") {
		t.Errorf("the agent's log: %q", r.errs)
	}
	ok(t, "agents", "--data", r.data)
	if code := r.stop(); code != 0 {
		t.Errorf("exit %d: %s", code, r.errs)
	}
	if got := r.note("end"); got != "SIGTERM" {
		t.Errorf("the agent ended by %q", got)
	}
}

// TestUpHandsOnWhatIsBehindTheDashes starts `up` with settings of the agent; what is in front of -- stays its own.
func TestUpHandsOnWhatIsBehindTheDashes(t *testing.T) {
	r := upHere(t, "", "--", "--cpu-budget", "0.05", "--deny", "exe=/usr/bin/vault", "--deny=cgroup=/a b")
	const passed = " --target netns=self --cpu-budget 0.05 --deny exe=/usr/bin/vault --deny=cgroup=/a b"
	until(t, "the agent runs", func() bool { return r.note("args") != "" })
	if got := r.note("args"); !strings.HasSuffix(got, passed) || strings.Contains(got, "--node") {
		t.Errorf("the agent got %q", got)
	}
}

func TestUpStartsADeadAgentAgain(t *testing.T) {
	r := upHere(t, "die once")
	until(t, "the agent is started again", func() bool { return r.note("starts") == "xx" })
	if !strings.Contains(r.errs.String(), "the agent ended (signal: killed); starting it again") {
		t.Errorf("it is not said: %s", r.errs)
	}
	if code := r.stop(); code != 0 {
		t.Errorf("exit %d: %s", code, r.errs)
	}
}

func TestUpEndsWhenTheAgentCannotRun(t *testing.T) {
	for how, want := range map[string]int{"usage": 2, "no BTF": 1, "lockdown": 1} {
		r := upHere(t, how)
		select {
		case code := <-r.done:
			r.done <- code
			last := r.errs.String()[strings.LastIndex(strings.TrimSpace(r.errs.String()), "\n")+1:]
			if code != want || !strings.HasPrefix(last, "spile: the agent does not run: spile-agent: ") || strings.Contains(r.errs.String(), "starting it again") {
				t.Errorf("%s: exit %d, want %d: %s", how, code, want, r.errs)
			}
		case <-time.After(20 * time.Second):
			t.Errorf("%s: up goes on: %s", how, r.errs)
		}
	}
}

// TestKilledUpLeavesNoAgent kills `spile up` with SIGKILL; its agent must not live on.
func TestKilledUpLeavesNoAgent(t *testing.T) {
	data, args := upArgs(t)
	cmd := exec.Command(os.Args[0], args...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r := &running{t: t, data: data}
	var pid int
	until(t, "the agent runs", func() bool {
		pid, _ = strconv.Atoi(r.note("pid"))
		return pid > 0
	})
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	until(t, "the agent is gone", func() bool { return gone(pid) })
	// What a killed one left behind is no obstacle.
	again := start(t, data)
	ok(t, "status", "--data", again.data)
}

// gone tells whether a process has ended; nobody may have waited for it yet.
func gone(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(after, "Z") || strings.HasPrefix(after, "X")
}

// TestUpEndsWithItsReader is `spile up | head -1`.
func TestUpEndsWithItsReader(t *testing.T) {
	_, args := upArgs(t)
	w, _, errs := testWorld("", args...)
	w.uid, w.Env, w.Stdout = 0, []string{"PATH=" + os.Getenv("PATH")}, &headOne{}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if code := run(ctx, w); code != 0 || ctx.Err() != nil {
		t.Errorf("exit %d, %v: %s", code, ctx.Err(), errs)
	}
}

// headOne takes one write, as head takes one line, and is gone.
type headOne struct{ taken bool }

func (h *headOne) Write(p []byte) (int, error) {
	if h.taken {
		return 0, syscall.EPIPE
	}
	h.taken = true
	return len(p), nil
}
