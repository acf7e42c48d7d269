package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/spile/spile/collector/cli"
	"github.com/spile/spile/collector/identity"
)

// keyName is the file of an agent's private key.
const keyName = "agent.key"

func collectorVerb(w world) *cobra.Command {
	var cfg config
	cmd := &cobra.Command{
		Use: "collector", Short: "Run the server only; agents connect to it", Args: cobra.NoArgs,
		Example: "  spile collector --data /var/lib/spile --agents-listen 0.0.0.0:7741\n" +
			"  spile collector --config /etc/spile/collector.yaml",
	}
	cfg.flags(cmd.Flags())
	cmd.RunE = cli.Do(func(ctx context.Context, _ []string) error {
		if err := settle(cmd.Flags(), w.Env); err != nil {
			return err
		}
		s, err := cfg.check()
		if err != nil {
			return err
		}
		w.keepPipe()
		log := slog.New(slog.NewTextHandler(w.Stderr, nil))
		c, err := openCollector(ctx, w, s, log)
		if err != nil {
			return err
		}
		log.Info("collector runs", "version", w.Version, "data", s.data, "agents", c.agentsAddr(), "query", c.queryAddr(), "http", c.httpAddr())
		return c.run(ctx)
	})
	return cmd
}

// enroll writes a certificate for a node on another host. It opens the same identity as a running collector does, so both
// agree on the authority whoever comes first.
func enroll(data, node, out string, force bool, now func() time.Time) error {
	if data == "" {
		data = defaultData
	}
	if _, err := os.Stat(data); err != nil {
		return fmt.Errorf("open the data directory: %w; name the collector's with --data", err)
	}
	// The key is kept nowhere else: whoever replaces it by mistake cuts an agent off when it restarts.
	key := filepath.Join(out, keyName)
	if _, err := os.Lstat(key); !force && !errors.Is(err, os.ErrNotExist) {
		if err != nil {
			return fmt.Errorf("look for %s: %w", key, cause(err))
		}
		return fmt.Errorf("%s is there already: choose another --out, or replace it with --force", key)
	}
	id, err := identity.Open(identityDir(data), now)
	if err != nil {
		return err
	}
	return writeBundle(id, node, out)
}

// writeBundle issues a certificate and writes it with mode 0600.
func writeBundle(id *identity.Authority, node, dir string) error {
	bundle, err := id.Issue(node)
	if errors.Is(err, identity.ErrNodeName) {
		return cli.Usage("%v", err)
	}
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make %s: %w", dir, cause(err))
	}
	for _, f := range []struct {
		name string
		pem  []byte
	}{{"ca.crt", bundle.CA}, {"agent.crt", bundle.Cert}, {keyName, bundle.Key}} {
		if err := writePrivate(filepath.Join(dir, f.name), f.pem); err != nil {
			return err
		}
	}
	return nil
}

// writePrivate replaces a file as a whole; a reader sees the old one or the new one.
func writePrivate(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", path, cause(err))
	}
	defer os.Remove(f.Name())
	_, err = f.Write(content)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("write %s: %w", path, cause(err))
	}
	return nil
}

// cause leaves the path out of a file system error, where the message names it already.
func cause(err error) error {
	var path *os.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}
