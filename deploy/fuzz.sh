#!/bin/bash
# Runs every fuzz target of the module, one after the other. Usage: fuzz.sh TIME (as in 60s)
set -euo pipefail
for dir in $(grep -rlE '^func Fuzz' --include='*_test.go' . | xargs -n1 dirname | sort -u); do
	for target in $(grep -hoE '^func Fuzz[A-Za-z0-9_]*' "$dir"/*_test.go | sed 's/func //' | sort -u); do
		echo "== $dir $target"
		go test "$dir" -run '^$' -fuzz "^$target\$" -fuzztime "${1:?time}"
	done
done
