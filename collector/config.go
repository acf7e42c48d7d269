package main

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/spile/spile/collector/cli"
	"github.com/spile/spile/collector/siem"
)

const defaultData = cli.DefaultData

// config is everything that can be set for a collector, whoever starts it.
type config struct {
	file         string
	data         string
	listen       string
	agentsListen string
	httpListen   string
	httpNames    []string
	journalURL   string
	journalAge   time.Duration
	journalBytes string
	sinks        []string
}

func (c *config) flags(f *pflag.FlagSet) {
	f.StringVar(&c.file, "config", "", "YAML file with these settings (http_listen: ...); flags and SPILE_* variables come first")
	f.StringVar(&c.data, "data", defaultData, "data directory: identity, journal, query socket")
	f.StringVar(&c.listen, "listen", "127.0.0.1:7740", "queries over TCP with the token; TLS unless it is loopback")
	f.StringVar(&c.agentsListen, "agents-listen", "127.0.0.1:7741", "agents, mTLS")
	f.StringVar(&c.httpListen, "http-listen", "127.0.0.1:7742", "/metrics, /healthz, /readyz")
	f.StringArrayVar(&c.httpNames, "http-name", nil, "host name under which HTTP may be asked, besides localhost")
	f.StringVar(&c.journalURL, "journal-url", "", "external NATS cluster with JetStream; empty: embedded in --data")
	f.DurationVar(&c.journalAge, "journal-age", 72*time.Hour, "calls older than this leave the journal")
	f.StringVar(&c.journalBytes, "journal-bytes", "", "most that calls may occupy, for example 4GB (default 8 GB or half of the free disk)")
	f.StringArrayVar(&c.sinks, "sink", nil, "where findings go: file,path=FILE[,format=ocsf][,name=N] or stdout")
}

// settings is a config that has been checked.
type settings struct {
	config
	outlets    []siem.Config
	journalMax int64
}

func (c config) check() (settings, error) {
	s := settings{config: c}
	for _, l := range []struct{ flag, addr string }{{"listen", c.listen}, {"agents-listen", c.agentsListen}, {"http-listen", c.httpListen}} {
		if _, _, err := net.SplitHostPort(l.addr); err != nil {
			return s, cli.Usage("--%s %q: want HOST:PORT", l.flag, l.addr)
		}
	}
	if c.data == "" {
		return s, cli.Usage("--data: want a directory")
	}
	if c.journalAge < time.Minute {
		return s, cli.Usage("--journal-age %s: want at least a minute", c.journalAge)
	}
	var err error
	if s.journalMax, err = parseBytes(c.journalBytes); err != nil {
		return s, cli.Usage("--journal-bytes %q: %v", c.journalBytes, err)
	}
	for _, text := range c.sinks {
		k, err := siem.ParseConfig(text)
		if err != nil {
			return s, cli.Usage("--sink %s: %v", text, err)
		}
		s.outlets = append(s.outlets, k)
	}
	return s, nil
}

// parseBytes reads "4GB", "512MB" or a plain number; "" is 0, the default.
func parseBytes(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	unit := int64(1)
	for _, u := range []struct {
		suffix string
		bytes  int64
	}{{"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}} {
		if digits, ok := strings.CutSuffix(s, u.suffix); ok {
			s, unit = digits, u.bytes
			break
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > (1<<62)/unit {
		return 0, fmt.Errorf("want a size such as 4GB or 512MB")
	}
	if n *= unit; n < 1<<20 {
		return 0, fmt.Errorf("want at least 1MB")
	}
	return n, nil
}

func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// openData makes the data directory and sees whether it can be used.
func openData(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the data directory %s: %w; choose another with --data or run as its owner", dir, cause(err))
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("open the data directory: %w", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("open the data directory %s: it is a file; choose another with --data", dir)
	}
	if _, err := os.ReadDir(dir); err != nil {
		return fmt.Errorf("read the data directory %s: %w; choose another with --data or run as its owner", dir, cause(err))
	}
	probe, err := os.CreateTemp(dir, ".probe-*")
	if err != nil {
		return fmt.Errorf("write to the data directory %s: %w; choose another with --data or run as its owner", dir, cause(err))
	}
	probe.Close()
	return os.Remove(probe.Name())
}
