// Package vmtest boots Debian's kernels under QEMU's emulator and runs the real binaries there.
//
// A machine with one kernel cannot show that Spile works on another. Run takes a kernel, packs an initramfs of static
// binaries, their shared libraries and a script, boots it without KVM, and hands back what the script printed on the
// serial console. Nothing is installed and nothing leaves the cache directory: kernels are unpacked Debian packages.
//
//	Kernel (.deb → vmlinuz) ─┐
//	Initramfs (cpio)        ─┴▶ qemu-system-x86_64 ─serial─▶ output, verdict line "vmtest rc=N"
//
// A boot that ends without the verdict line has failed, whatever QEMU's exit status.
package vmtest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// Kernel is an unpacked Debian kernel image.
type Kernel struct {
	Version string // "6.1.0-50-cloud-amd64"
	Image   string // path of vmlinuz
}

// metaPackages names the Debian package that depends on the newest kernel of a series.
var metaPackages = map[string]string{
	"6.1": "linux-image-cloud-amd64",
}

var dependsOnImage = regexp.MustCompile(`linux-image-[0-9][0-9.]*[-+][a-z0-9]+-cloud-amd64`)

// Fetch resolves the newest kernel of a series ("6.1") with the machine's own apt sources and unpacks it below dir.
// Names are resolved at run time because old versions leave the archive.
func Fetch(ctx context.Context, series, dir string) (Kernel, error) {
	meta, ok := metaPackages[series]
	if !ok {
		return Kernel{}, fmt.Errorf("kernel %s: no Debian package is known for it", series)
	}
	out, err := exec.CommandContext(ctx, "apt-cache", "depends", meta).CombinedOutput()
	if err != nil {
		return Kernel{}, fmt.Errorf("resolve %s: %w: %s", meta, err, out)
	}
	pkg, err := imageOf(series, meta, string(out))
	if err != nil {
		return Kernel{}, err
	}
	version := strings.TrimPrefix(pkg, "linux-image-")
	k := Kernel{Version: version, Image: filepath.Join(dir, pkg, "boot", "vmlinuz-"+version)}
	if _, err := os.Stat(k.Image); err == nil {
		return k, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return Kernel{}, fmt.Errorf("make the kernel cache: %w", err)
	}
	get := exec.CommandContext(ctx, "apt-get", "download", "-qq", pkg)
	get.Dir = dir
	if out, err := get.CombinedOutput(); err != nil {
		return Kernel{}, fmt.Errorf("download %s: %w: %s", pkg, err, out)
	}
	debs, err := filepath.Glob(filepath.Join(dir, pkg+"_*.deb"))
	if err != nil || len(debs) == 0 {
		return Kernel{}, fmt.Errorf("download %s: no file arrived", pkg)
	}
	defer os.Remove(debs[0])
	if out, err := exec.CommandContext(ctx, "dpkg-deb", "-x", debs[0], filepath.Join(dir, pkg)).CombinedOutput(); err != nil {
		return Kernel{}, fmt.Errorf("unpack %s: %w: %s", debs[0], err, out)
	}
	if _, err := os.Stat(k.Image); err != nil {
		return Kernel{}, fmt.Errorf("unpack %s: it holds no kernel image: %w", debs[0], err)
	}
	return k, nil
}

// imageOf finds the image that a meta package depends on. Each Debian release has its own kernel under the same meta package,
// and a test of one kernel must not pass on another.
func imageOf(series, meta, depends string) (string, error) {
	pkg := dependsOnImage.FindString(depends)
	if pkg == "" {
		return "", fmt.Errorf("resolve %s: no kernel image among its dependencies; run apt-get update", meta)
	}
	if version := strings.TrimPrefix(pkg, "linux-image-"); !strings.HasPrefix(version, series+".") {
		return "", fmt.Errorf("resolve %s: this machine's apt sources have kernel %s, not %s: add the sources of the Debian release that has it", meta, version, series)
	}
	return pkg, nil
}
