package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spile/spile/agent/chunk"
	"github.com/spile/spile/proto/line"
	v1 "github.com/spile/spile/proto/spile/v1"
)

// replayKey is the fixed key of replays: the same recording gives the same bytes anywhere, and nothing that a replay
// prints can be matched with what a real install hashed.
func replayKey() installKey {
	return installKey{key: []byte("spile replay: a key for all to see")[:keyBytes]}
}

// replay reads a recording and prints the calls it holds.
func replay(_ context.Context, w world, c config, args []string) error {
	f, err := os.Open(args[0])
	if err != nil {
		return fmt.Errorf("replay: %w", err)
	}
	defer f.Close()
	r, err := chunk.NewReader(bufio.NewReaderSize(f, 1<<20))
	if err != nil {
		return fmt.Errorf("replay %s: %w", args[0], err)
	}
	out := bufio.NewWriter(w.stdout)
	print, end := printer(out, c.output)
	head := r.Header()
	p := newPipeline(pipelineConfig{
		key: replayKey(), node: head.Node, boot: head.Node, wall: head.BootToUnix, emit: print,
		owner: func(o chunk.Owner, _ time.Duration, peer *v1.Peer) {
			peer.Process, peer.Pid = strings.ToValidUTF8(o.Comm, "\uFFFD"), o.TGID
		},
		mute: func(chunk.StreamID) {},
	})
	var piece chunk.Chunk
	var bad error
	for {
		if err := r.Next(&piece); err != nil {
			if !errors.Is(err, io.EOF) {
				bad = fmt.Errorf("replay %s: %w", args[0], err)
			}
			break
		}
		p.chunk(&piece)
		p.tick(piece.Time)
	}
	p.finish()
	end()
	if err := out.Flush(); err != nil {
		return err
	}
	if n := p.flow.Counts().Lost(); n > 0 {
		fmt.Fprintf(w.stderr, "%d calls are missing from the recording\n", n)
	}
	return bad
}

// printer prints calls as a table or as JSON lines; end completes the output.
func printer(out io.Writer, format string) (print func(*v1.Call), end func()) {
	if format == "json" {
		var buf []byte
		return func(c *v1.Call) {
			buf = append(line.Append(buf[:0], c), '\n')
			out.Write(buf)
		}, func() {}
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "TIME\tFROM\tTO\tPROTOCOL\tMETHOD\tPATH\tSTATUS\tDURATION\tOBSERVED")
	return func(c *v1.Call) {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\n", c.GetTime().AsTime().Format("15:04:05.000"), printable(c.GetSource().GetProcess()), printable(c.GetDestination().GetProcess()),
			c.GetProtocol(), printable(c.GetMethod()), printable(c.GetPath()), c.GetStatusCode(), c.GetDuration().AsDuration().Round(10*time.Microsecond), strings.ToLower(strings.TrimPrefix(c.GetObserved().String(), "OBSERVED_")))
	}, func() { table.Flush() }
}

// printable keeps what a watched program sent from steering the terminal.
func printable(s string) string {
	clean := []rune(s)
	for i, r := range clean {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			clean[i] = '·'
		}
	}
	return string(clean)
}
