// Package vmtest boots Debian's kernels under QEMU's emulator and runs the real binaries there.
//
// A machine with one kernel cannot show that Spile works on another. An Archive finds the newest kernel of a series, packs
// nothing and installs nothing: packages are unpacked below one cache directory. An Initramfs holds static binaries, the
// shared libraries of others and a script; Run boots it without KVM and hands back what the script printed on the serial
// console.
//
//	/etc/apt ─sources─▶ Archive ─┬─Kernel (.deb → vmlinuz)────┐
//	                             └─Emulator (.deb → qemu 10)──┼▶ Boot ─serial─▶ Result: console, "vmtest rc=N"
//	                               Initramfs (cpio)───────────┘
//
// A boot that ends without the verdict line has failed, whatever QEMU's exit status. What the emulator itself may break is told
// apart from what Spile breaks by when it happened: see Emulated.
package vmtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Kernel is an unpacked Debian kernel image.
type Kernel struct {
	Series  string // "6.1": what the version begins with, also when "newest" was asked for
	Version string // "6.1.0-50-cloud-amd64"
	Image   string // path of vmlinuz
}

// Newest asks for the highest version that any of Debian's suites has.
const Newest = "newest"

// suites have the kernels of each series; of several that do, the highest version is taken.
var suites = map[string][]string{
	"5.10": {"bullseye", "bullseye-security"},
	"6.1":  {"bookworm", "bookworm-security"},
	"6.12": {"trixie", "trixie-security"},
	"6.18": {"trixie-backports"},
	Newest: {"trixie-backports", "sid"},
}

// ErrNoKernel says that a series has no kernel, neither in the archive nor kept.
var ErrNoKernel = errors.New("no kernel of this series")

// The signed image is called linux-image, and from Linux 7.0 on linux-binary, of which linux-image is an empty dependent. The
// version ends in Debian's revision ("-56", "+deb13"); names without one depend on whatever is newest.
var kernelPackage = regexp.MustCompile(`^linux-(image|binary)-([0-9][0-9.]*[-+][a-z0-9.]+-cloud-amd64)$`)

// Kernel finds and unpacks the newest kernel of a series ("6.1"). Names are resolved at each call because old versions leave the
// archive. When the archive does not answer, the newest one kept is taken, and said.
func (a *Archive) Kernel(ctx context.Context, series string) (Kernel, error) {
	if suites[series] == nil {
		return Kernel{}, fmt.Errorf("kernel %s: %w: known are %s", series, ErrNoKernel, strings.Join(known(), ", "))
	}
	var refused []error
	best, from := "", ""
	for _, suite := range suites[series] {
		names, err := a.names(ctx, suite, "linux-")
		if err != nil {
			refused = append(refused, err)
		}
		if version := highest(series, names); compare(version, best) > 0 {
			best, from = version, suite
		}
	}
	if best != "" {
		k, err := a.kernel(ctx, from, best)
		if err == nil {
			return k, nil
		}
		refused = append(refused, err)
	}
	if k, ok := a.kept(series); ok {
		a.log("kernel %s: the archive does not give one, so %s of an earlier run is used: %v", series, k.Version, errors.Join(refused...))
		return k, nil
	}
	return Kernel{}, errors.Join(append([]error{fmt.Errorf("kernel %s: %w in %s", series, ErrNoKernel, strings.Join(suites[series], ", "))}, refused...)...)
}

func known() []string {
	var all []string
	for series := range suites {
		all = append(all, series)
	}
	slices.SortFunc(all, compare)
	return all
}

func (a *Archive) kernel(ctx context.Context, suite, version string) (Kernel, error) {
	name := "linux-image-" + version
	binary := "linux-binary-" + version
	names, err := a.names(ctx, suite, binary)
	if err != nil {
		return Kernel{}, err
	}
	if slices.Contains(names, binary) {
		name = binary
	}
	dir, err := a.unpack(ctx, suite, name, name)
	if err != nil {
		return Kernel{}, err
	}
	return imageIn(dir, version)
}

func imageIn(dir, version string) (Kernel, error) {
	for _, file := range []string{filepath.Join("boot", "vmlinuz-"+version), filepath.Join("usr/lib/modules", version, "vmlinuz")} {
		path := filepath.Join(dir, file)
		if _, err := os.Stat(path); err == nil {
			numbers := append(numbersOf(version), 0, 0)
			return Kernel{Series: fmt.Sprintf("%d.%d", numbers[0], numbers[1]), Version: version, Image: path}, nil
		}
	}
	return Kernel{}, fmt.Errorf("%s holds no kernel image", dir)
}

// kept is the newest kernel of earlier runs.
func (a *Archive) kept(series string) (Kernel, bool) {
	dirs, err := os.ReadDir(a.dir)
	if err != nil {
		return Kernel{}, false
	}
	var names []string
	for _, dir := range dirs {
		names = append(names, dir.Name())
	}
	version := highest(series, names)
	for _, name := range []string{"linux-image-", "linux-binary-"} {
		if k, err := imageIn(filepath.Join(a.dir, name+version), version); version != "" && err == nil {
			return k, true
		}
	}
	return Kernel{}, false
}

// highest is the highest version of a series among package names, or "".
func highest(series string, names []string) (best string) {
	for _, name := range names {
		m := kernelPackage.FindStringSubmatch(name)
		if m == nil || series != Newest && !strings.HasPrefix(m[2], series+".") {
			continue
		}
		if compare(m[2], best) > 0 {
			best = m[2]
		}
	}
	return best
}

// compare orders versions by their numbers; what stands between them ("+deb", ".bpo") tells releases apart, not kernels.
func compare(a, b string) int { return slices.Compare(numbersOf(a), numbersOf(b)) }

var number = regexp.MustCompile(`[0-9]+`)

func numbersOf(version string) []int {
	version = strings.TrimSuffix(version, "-cloud-amd64")
	var all []int
	for _, digits := range number.FindAllString(version, -1) {
		n, err := strconv.Atoi(digits)
		if err != nil {
			n = 0 // more digits than a version has
		}
		all = append(all, n)
	}
	return all
}
