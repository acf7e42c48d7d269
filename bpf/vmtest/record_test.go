package vmtest

import (
	"encoding/csv"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const recordFile = "../testdata/verifier.csv"

var verifiedLine = regexp.MustCompile(`(?m)^verified,([0-9.]+,\w+,\w+,[0-9]+)$`)

// verified are the rows that the guest's test of the verifier printed: kernel, object, program, instructions.
func verified(console string) (rows []string) {
	for _, m := range verifiedLine.FindAllStringSubmatch(console, -1) {
		rows = append(rows, m[1])
	}
	return rows
}

// record replaces the rows of the kernels that ran.
func record(t *testing.T, counted []string) {
	t.Helper()
	old, err := os.ReadFile(recordFile)
	if err != nil {
		t.Fatal(err)
	}
	text, err := merge(string(old), counted)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(recordFile, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d rows are recorded in bpf/testdata/verifier.csv", len(counted))
}

func merge(old string, counted []string) (string, error) {
	rows, err := csv.NewReader(strings.NewReader(old)).ReadAll()
	if err != nil {
		return "", err
	}
	ran := map[string]bool{}
	var all [][]string
	for _, line := range counted {
		fields := strings.Split(line, ",")
		ran[fields[0]] = true
		all = append(all, fields)
	}
	for _, row := range rows[1:] {
		if !ran[row[0]] {
			all = append(all, row)
		}
	}
	slices.SortFunc(all, func(a, b []string) int {
		if order := compare(a[0], b[0]); order != 0 {
			return order
		}
		return slices.Compare(a[1:3], b[1:3])
	})
	text := strings.Join(rows[0], ",") + "\n"
	for _, row := range all {
		text += strings.Join(row, ",") + "\n"
	}
	return text, nil
}

func TestRecordKeepsKernelsThatDidNotRun(t *testing.T) {
	got, err := merge("kernel,object,program,instructions\n6.1,sock,sock_state,5\n6.1,sock,gone,7\n6.12,tls,ssl_exit,9\n",
		verified("=== RUN\nverified,6.1,sock,sock_state,6\n    x verified,6.1,sock,no,6\nverified,5.10,tls,ssl_exit,4\n"))
	want := "kernel,object,program,instructions\n5.10,tls,ssl_exit,4\n6.1,sock,sock_state,6\n6.12,tls,ssl_exit,9\n"
	if err != nil || got != want {
		t.Errorf("%v: got %q, want %q", err, got, want)
	}
}
