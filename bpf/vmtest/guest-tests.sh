finish() { echo "vmtest rc=$1"; sync; poweroff -f; }
trap 'finish 99' EXIT
bpf.test -test.count=1 -test.v -test.run '^(TestBlockedReceivers|TestVerifierMargin)$/^(kprobe|syscall)$' 2>&1
rc=$?
trap - EXIT
finish $rc
