finish() { echo "vmtest rc=$1"; sync; poweroff -f; }
trap 'finish 99' EXIT
export SPILE_TEST_COUNTS=1 SPILE_TEST_SLOW=1
bpf.test -test.count=1 -test.v -test.run '^TestVerifierCounts$|^TestEveryHook$' 2>&1
rc=$?
trap - EXIT
finish $rc
