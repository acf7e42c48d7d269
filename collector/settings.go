package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/spile/spile/collector/cli"
)

const (
	envPrefix      = "SPILE_"
	maxConfigBytes = 1 << 20
)

// otherEnv are SPILE_ variables that mean something to another verb, or to the agent.
func otherEnv() []string {
	return append(agentOnlyEnv(), "SERVER", "TOKEN_FILE", "CA", "COLLECTOR", "DATA", "NODE", "CERT", "KEY", "TARGET")
}

// serviceLink matches what Kubernetes puts into the environment of a pod beside a Service whose name begins with "spile".
var serviceLink = regexp.MustCompile(`^([A-Z0-9]+_)*(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT|PORT_[0-9]+_(TCP|UDP|SCTP)(_(ADDR|PORT|PROTO))?)$`)

// settle fills flags that were not given from the environment (where a list is words), then from a YAML file. A flag, a
// variable and a key are one name (--http-listen, SPILE_HTTP_LISTEN, http_listen), and a name that no verb and no agent has
// is an error: a mistyped --target in another spelling would watch what nobody wanted watched.
func settle(flags *pflag.FlagSet, env []string) error {
	if err := fromEnv(flags, env); err != nil {
		return err
	}
	file := flags.Lookup("config")
	if file == nil || file.Value.String() == "" {
		return nil
	}
	return fromFile(flags, file.Value.String())
}

func fromEnv(flags *pflag.FlagSet, env []string) error {
	for _, kv := range env {
		key, value, _ := strings.Cut(kv, "=")
		name, ours := strings.CutPrefix(key, envPrefix)
		if !ours {
			continue
		}
		f := flags.Lookup(strings.ToLower(strings.ReplaceAll(name, "_", "-")))
		switch {
		case f != nil && f.Name != "help":
		case slices.Contains(otherEnv(), name), serviceLink.MatchString(name):
			continue
		default:
			return cli.Usage("the environment variable %s is no setting: remove it or correct its name", key)
		}
		if f.Changed {
			continue
		}
		values := []string{value}
		if _, many := f.Value.(pflag.SliceValue); many {
			values = strings.Fields(value)
		}
		for _, v := range values {
			if err := flags.Set(f.Name, v); err != nil {
				return cli.Usage("the environment variable %s: %v", key, cli.FlagError(nil, err))
			}
		}
	}
	return nil
}

func fromFile(flags *pflag.FlagSet, path string) error {
	raw, err := readFile(path, maxConfigBytes)
	if err != nil {
		return fmt.Errorf("read the configuration: %w", err)
	}
	var doc yaml.Node
	if err := yaml.NewDecoder(bytes.NewReader(raw)).Decode(&doc); errors.Is(err, io.EOF) {
		return nil
	} else if err != nil {
		return cli.Usage("%s: %v", path, err)
	}
	root := doc.Content[0]
	if root.Kind != yaml.MappingNode {
		return cli.Usage("%s: want keys and values at the top", path)
	}
	first := map[string]int{}
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, node := root.Content[i], root.Content[i+1]
		if line, again := first[key.Value]; again {
			return cli.Usage("%s:%d: %q stands in line %d already", path, key.Line, key.Value, line)
		}
		first[key.Value] = key.Line
		f := flags.Lookup(strings.ReplaceAll(key.Value, "_", "-"))
		if f == nil || strings.Contains(key.Value, "-") || f.Name == "config" || f.Name == "help" {
			return cli.Usage("%s:%d: %q is no setting", path, key.Line, key.Value)
		}
		// Flags and variables come first; both have marked theirs as changed.
		if f.Changed {
			continue
		}
		values, err := scalars(f, node)
		if err != nil {
			return cli.Usage("%s:%d: %s: %v", path, node.Line, key.Value, err)
		}
		for _, v := range values {
			if err := flags.Set(f.Name, v); err != nil {
				return cli.Usage("%s:%d: %s: %v", path, node.Line, key.Value, cli.FlagError(nil, err))
			}
		}
	}
	return nil
}

// scalars turns a YAML value into what the flag would have been given: one text, or one for each item of a list.
func scalars(f *pflag.Flag, node *yaml.Node) ([]string, error) {
	switch node.Kind {
	case yaml.ScalarNode:
		return []string{node.Value}, nil
	case yaml.SequenceNode:
		if _, many := f.Value.(pflag.SliceValue); !many {
			return nil, errors.New("takes one value, not a list")
		}
		var out []string
		for _, item := range node.Content {
			text, err := scalar(item)
			if err != nil {
				return nil, err
			}
			out = append(out, text)
		}
		return out, nil
	}
	return nil, errors.New("want a value or a list")
}

// scalar is one item of a list: a text, or a map. A map becomes the short form that the flag takes: KIND,key=value.
func scalar(node *yaml.Node) (string, error) {
	if node.Kind == yaml.ScalarNode {
		return node.Value, nil
	}
	if node.Kind != yaml.MappingNode {
		return "", errors.New("want a text or keys and values")
	}
	kind, fields := "", ""
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		if key.Kind != yaml.ScalarNode || value.Kind != yaml.ScalarNode || strings.Contains(value.Value, ",") {
			return "", errors.New("want texts without commas as keys and values")
		}
		if key.Value == "kind" {
			kind = value.Value
			continue
		}
		fields += "," + key.Value + "=" + value.Value
	}
	return kind + fields, nil
}

// readFile reads a file of bounded size.
func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(raw)) > limit {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return raw, nil
}
