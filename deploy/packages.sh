#!/bin/bash
# Installs the Debian packages that a make target needs and this machine lacks. Usage: packages.sh test|check|vm|matrix|bench
set -euo pipefail
declare -A need=(
	[test]="nginx:nginx-light h2load:nghttp2-client openssl:openssl curl:curl python3:python3 ip:iproute2 unshare:util-linux cc:gcc /usr/include/stdio.h:libc6-dev /usr/include/openssl/ssl.h:libssl-dev wget:wget gnutls-serv:gnutls-bin redis-server:redis-server redis-cli:redis-tools"
	[check]="clang-14:clang-14 llvm-strip-14:llvm-14 protoc:protobuf-compiler /usr/include/bpf/bpf_helpers.h:libbpf-dev /usr/include/google/protobuf/timestamp.proto:libprotobuf-dev"
	[vm]="qemu-system-x86_64:qemu-system-x86 /bin/busybox:busybox-static openssl:openssl curl:curl python3:python3"
	[bench]="nginx:nginx-light h2load:nghttp2-client haproxy:haproxy node:nodejs ip:iproute2"
	[matrix]="apache2:apache2 haproxy:haproxy /usr/lib/postgresql:postgresql psql:postgresql-client"
)
need[matrix]+=" ${need[test]}"
node20=bin/matrix/node_modules/node/bin/node # where the tests look too
has_node20() {
	local node
	for node in node $node20; do
		[ "$($node -p 'parseInt(process.versions.node) >= 20' 2>/dev/null)" = true ] && return
	done
	return 1
}
[ "${1:-}" = matrix ] && ! has_node20 && need[matrix]+=" npm:npm" # Debian 12 has 18, and its OpenSSL is not in the executable
missing=()
for pair in ${need[${1:?test, check, vm, matrix or bench}]}; do
	what=${pair%%:*}
	command -v "$what" >/dev/null || [ -e "$what" ] || missing+=("${pair#*:}")
done
if [ ${#missing[@]} -gt 0 ]; then
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
fi
if [ "$1" = matrix ] && ! has_node20; then
	npm install --silent --no-save --no-audit --no-fund --prefix bin/matrix node@20 >&2
fi
if [ "$1" = matrix ]; then # the tests build in a network namespace: what they build with must be here before
	for toolchain in go1.20.14 go1.21.13 go1.23.12 go1.25.5 go1.26.0; do
		case $(go env GOVERSION) in "${toolchain%.*}".*) ;; *) GOTOOLCHAIN=$toolchain go version >/dev/null ;; esac
	done
fi
