package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spile/spile/agent/chunk"
	"github.com/spile/spile/agent/mask"
	"github.com/spile/spile/agent/target"
)

// record writes what the kernel shows to a file, values masked, until it is told to stop.
func record(ctx context.Context, w world, c config, args []string) (err error) {
	spec, err := target.ParseSpec(c.targets)
	if err != nil {
		return usageError{err}
	}
	if err := needsRoot(); err != nil {
		return err
	}
	log := logger(w)
	if c.raw {
		log.Warn("--raw keeps passwords, tokens and personal data in the recording: give it to nobody and delete it after use", "file", args[0])
	}
	t, err := openTap(ctx, c.whole(), spec, nil, log)
	if err != nil {
		return err
	}
	defer t.close()
	f, err := os.OpenFile(args[0], os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		if errors.Is(err, os.ErrExist) {
			return fmt.Errorf("record: %s exists already: recordings are not overwritten", args[0])
		}
		return fmt.Errorf("record: %w", err)
	}
	buffered := bufio.NewWriterSize(f, 1<<20)
	defer func() { err = errors.Join(err, buffered.Flush(), f.Close()) }()
	out, err := chunk.NewWriter(buffered, chunk.Header{BootToUnix: bootToUnix(), Agent: version, Node: c.node})
	if err != nil {
		return err
	}
	var written, refused uint64
	write := func(p *chunk.Chunk) {
		if err := out.Write(p); err != nil {
			refused++
			return
		}
		written++
	}
	take, finish := write, func() {}
	if !c.raw {
		m := mask.New(write)
		take, finish = m.Feed, m.Flush
	}
	log.Info("recording until SIGINT or SIGTERM", "file", args[0], "masked", !c.raw, "targets", c.targets.String())
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	err = t.ring.Run(ctx, take, t.process, func(time.Duration) {
		if refused > 0 {
			cancel() // the disk is full or gone: stop rather than leave holes
		}
	})
	finish()
	if refused > 0 {
		return errors.Join(err, fmt.Errorf("record %s: the file cannot be written (is the disk full?): %d pieces kept, %d lost", args[0], written, refused))
	}
	log.Info("recorded", "file", args[0], "pieces", written)
	return err
}

// whole leaves nothing out for what it costs, unless a stage is held: who records wants all of it. What one message may
// take stays bounded.
func (c config) whole() config {
	c.cpu, c.probes, c.library, c.budget, c.bodies = 0, 0, 0, 0, 0
	return c
}
