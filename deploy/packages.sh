#!/bin/bash
# Installs the Debian packages that a make target needs and this machine lacks. Usage: packages.sh test|check|vm
set -euo pipefail
declare -A need=(
	[test]="nginx:nginx-light h2load:nghttp2-client openssl:openssl curl:curl python3:python3 ip:iproute2 unshare:util-linux cc:gcc /usr/include/stdio.h:libc6-dev"
	[check]="clang-14:clang-14 llvm-strip-14:llvm-14 protoc:protobuf-compiler /usr/include/bpf/bpf_helpers.h:libbpf-dev /usr/include/google/protobuf/timestamp.proto:libprotobuf-dev"
	[vm]="qemu-system-x86_64:qemu-system-x86 /bin/busybox:busybox-static openssl:openssl curl:curl python3:python3"
)
missing=()
for pair in ${need[${1:?test, check or vm}]}; do
	what=${pair%%:*}
	command -v "$what" >/dev/null || [ -e "$what" ] || missing+=("${pair#*:}")
done
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
	echo "this needs: ${missing[*]} (Debian package names); install them, or run as root on Debian" >&2
	exit 1
fi
echo "installing ${missing[*]}" >&2
# A service that a package brings must not start here: policy-rc.d 101 means "not allowed".
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
	printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy
	trap 'rm -f $policy' EXIT
fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
