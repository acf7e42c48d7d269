package vmtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Archive gets packages of any Debian release, with an apt of its own: its sources, lists and files lie below one directory,
// so that the machine's apt stays as it is, and neither root nor installing is needed.
type Archive struct {
	dir     string
	sources sources
	log     func(format string, args ...any)
	updated map[string]error // by suite, once in the life of an Archive
}

// OpenArchive keeps everything below dir and learns the mirrors from apt's configuration in etc ("/etc/apt"). What it
// decides, such as to take a kept kernel because no mirror answers, it says through log.
func OpenArchive(dir, etc string, log func(format string, args ...any)) (*Archive, error) {
	all, err := readSources(etc)
	if err != nil {
		log("%v: only what is kept in %s can be used", err, dir)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the kernel cache: %w", err)
	}
	return &Archive{dir: dir, sources: all, log: log, updated: map[string]error{}}, nil
}

// apt runs one of apt's programs on the private root of a suite.
func (a *Archive) apt(ctx context.Context, dir, suite, program string, args ...string) (string, error) {
	root := filepath.Join(a.dir, "apt", strings.ReplaceAll(suite, "/", "-"))
	options := []string{"-qq",
		"-o", "Dir::Etc::sourcelist=" + filepath.Join(root, "debian.sources"), "-o", "Dir::Etc::sourceparts=/dev/null",
		"-o", "Dir::Etc::preferences=/dev/null", "-o", "Dir::Etc::preferencesparts=/dev/null",
		"-o", "Dir::State::lists=" + filepath.Join(root, "lists"), "-o", "Dir::Cache=" + filepath.Join(root, "cache"),
		"-o", "APT::Default-Release=", "-o", "APT::Sandbox::User=", "-o", "Acquire::Retries=3",
		"-o", "Acquire::Languages=none", "-o", "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false"}
	cmd := exec.CommandContext(ctx, program, append(options, args...)...)
	cmd.Dir = dir
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s for %s: %w: %s", program, strings.Join(args, " "), suite, err, strings.TrimSpace(stderr.String()))
	}
	return string(out), nil
}

// update reads the lists of a suite anew.
func (a *Archive) update(ctx context.Context, suite string) error {
	if err, done := a.updated[suite]; done {
		return err
	}
	err := a.refresh(ctx, suite)
	a.updated[suite] = err
	return err
}

func (a *Archive) refresh(ctx context.Context, suite string) error {
	s, err := a.sources.of(suite)
	if err != nil {
		return err
	}
	root := filepath.Join(a.dir, "apt", strings.ReplaceAll(suite, "/", "-"))
	for _, dir := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return fmt.Errorf("make the private apt root: %w", err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "debian.sources"), []byte(s.stanza()), 0o644); err != nil {
		return fmt.Errorf("make the private apt root: %w", err)
	}
	_, err = a.apt(ctx, root, suite, "apt-get", "update", "-o", "APT::Update::Error-Mode=any")
	return err
}

// names lists the packages of a suite whose names begin with prefix.
func (a *Archive) names(ctx context.Context, suite, prefix string) ([]string, error) {
	if err := a.update(ctx, suite); err != nil {
		return nil, err
	}
	out, err := a.apt(ctx, a.dir, suite, "apt-cache", "pkgnames", prefix)
	return strings.Fields(out), err
}

// unpack downloads packages of a suite and unpacks them together into the directory name of the cache. A directory that is there
// is whole: it gets its name last.
func (a *Archive) unpack(ctx context.Context, suite, name string, packages ...string) (string, error) {
	target := filepath.Join(a.dir, name)
	if _, err := os.Stat(target); err == nil {
		return target, nil
	}
	if err := a.update(ctx, suite); err != nil {
		return "", err
	}
	work, err := os.MkdirTemp(a.dir, "unpack-")
	if err != nil {
		return "", fmt.Errorf("unpack %s: %w", name, err)
	}
	defer os.RemoveAll(work)
	if _, err := a.apt(ctx, work, suite, "apt-get", append([]string{"download"}, packages...)...); err != nil {
		return "", err
	}
	debs, err := filepath.Glob(filepath.Join(work, "*.deb"))
	if err != nil || len(debs) != len(packages) {
		return "", fmt.Errorf("download %s: %d of %d files arrived", name, len(debs), len(packages))
	}
	tree := filepath.Join(work, "tree")
	for _, deb := range debs {
		if out, err := exec.CommandContext(ctx, "dpkg-deb", "-x", deb, tree).CombinedOutput(); err != nil {
			return "", fmt.Errorf("unpack %s: %w: %s", deb, err, out)
		}
	}
	// Two runs at once may both get here; the first one's directory is as good.
	if err := os.Rename(tree, target); err != nil && !errors.Is(err, os.ErrExist) {
		return "", fmt.Errorf("unpack %s: %w", name, err)
	}
	return target, nil
}
