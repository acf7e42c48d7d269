package siem

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spile/spile/proto/line"
	v1 "github.com/spile/spile/proto/spile/v1"
)

// ErrConfig is what every refusal of a sink's configuration wraps.
var ErrConfig = errors.New("bad sink configuration")

// Sink takes lines. One goroutine uses it.
type Sink interface {
	// Write takes one line that ends in a newline. After an error nothing of the line counts as taken.
	Write(line []byte) error
	// Sync returns when everything written survives what the sink promises to survive.
	Sync() error
	Close() error
}

// Config describes one sink, as the YAML file and the flags do.
type Config struct {
	// Name is the sink's identity: its position in the journal is kept under it.
	Name   string `yaml:"name"`
	Kind   string `yaml:"kind"`
	Format string `yaml:"format"`
	// Path is the file of kind "file".
	Path string `yaml:"path"`
	// MaxBytes is the size at which a file is rotated; 0 = 100 MiB.
	MaxBytes int64 `yaml:"max_bytes"`
	// Keep is how many rotated files stay; 0 = 5.
	Keep int `yaml:"keep"`
}

// World is what a sink needs from the program around it.
type World struct {
	Stdout io.Writer
	// Version is Spile's, Tenant the installation's name for a SIEM that serves many.
	Version, Tenant string
	// Notice, where given, hears when a sink begins to fail, and with a nil error when it works again.
	Notice func(sink string, err error)
}

// kind is one line of the table of sinks.
type kind struct {
	name string
	open func(Config, World) (Sink, error)
}

func kinds() []kind {
	return []kind{
		{"file", openFile},
		{"stdout", openStdout},
	}
}

// format is one line of the table of formats.
type format struct {
	name string
	make func(World) func(*v1.Finding) ([]byte, error)
}

func formats() []format {
	return []format{
		{"native", native},
		{"ocsf", ocsf},
	}
}

// ParseConfig reads the short form KIND[,key=value]... that flags use: "file,path=/var/log/spile.jsonl,format=ocsf".
func ParseConfig(text string) (Config, error) {
	head, rest, _ := strings.Cut(text, ",")
	c := Config{Kind: head}
	for rest != "" {
		var part string
		part, rest, _ = strings.Cut(rest, ",")
		key, value, ok := strings.Cut(part, "=")
		if !ok {
			return Config{}, fmt.Errorf("read sink %q: %w: %q is not key=value", text, ErrConfig, part)
		}
		switch key {
		case "name":
			c.Name = value
		case "format":
			c.Format = value
		case "path":
			c.Path = value
		case "max_bytes":
			if _, err := fmt.Sscanf(value, "%d", &c.MaxBytes); err != nil || fmt.Sprint(c.MaxBytes) != value {
				return Config{}, fmt.Errorf("read sink %q: %w: max_bytes %q is not a number", text, ErrConfig, value)
			}
		case "keep":
			if _, err := fmt.Sscanf(value, "%d", &c.Keep); err != nil || fmt.Sprint(c.Keep) != value {
				return Config{}, fmt.Errorf("read sink %q: %w: keep %q is not a number", text, ErrConfig, value)
			}
		default:
			return Config{}, fmt.Errorf("read sink %q: %w: unknown key %q (known: name, format, path, max_bytes, keep)", text, ErrConfig, key)
		}
	}
	return c, nil
}

// resolve fills defaults and refuses what cannot work.
func (c Config) resolve() (Config, kind, format, error) {
	if c.Format == "" {
		c.Format = "native"
	}
	if c.Name == "" {
		c.Name = c.Kind
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = 100 << 20
	}
	if c.Keep == 0 {
		c.Keep = 5
	}
	bad := func(f string, args ...any) (Config, kind, format, error) {
		return c, kind{}, format{}, fmt.Errorf("open sink %q: %w: %s", c.Name, ErrConfig, fmt.Sprintf(f, args...))
	}
	// The kind before the name, which is the kind where none is given.
	var chosen kind
	var known []string
	for _, k := range kinds() {
		if k.name == c.Kind {
			chosen = k
		}
		known = append(known, k.name)
	}
	if chosen.name == "" {
		return bad("kind %q is not one of %s", c.Kind, strings.Join(known, ", "))
	}
	if strings.Trim(c.Name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != "" || len(c.Name) > 64 {
		return bad("the name may hold letters, digits, - and _ only, 64 at most")
	}
	if c.MaxBytes < 4096 {
		return bad("max_bytes %d is below 4096", c.MaxBytes)
	}
	if c.Keep < 1 || c.Keep > 1000 {
		return bad("keep %d is not between 1 and 1000", c.Keep)
	}
	var names []string
	for _, f := range formats() {
		if f.name == c.Format {
			return c, chosen, f, nil
		}
		names = append(names, f.name)
	}
	return bad("format %q is not one of %s", c.Format, strings.Join(names, ", "))
}

func native(World) func(*v1.Finding) ([]byte, error) {
	return func(f *v1.Finding) ([]byte, error) { return append(line.Append(nil, f), '\n'), nil }
}
