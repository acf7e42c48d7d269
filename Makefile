# Spile. `make help` lists what there is; every target installs what it lacks (Debian 12, root).
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
export CGO_ENABLED := 0
export GOFLAGS := -buildvcs=false
GO ?= go
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
BUILD := $(GO) build -tags grpcnotrace -trimpath -ldflags '-s -w -X main.version=$(VERSION)'
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.7.0
CLANG := clang-14
KERNELS ?= 5.10 6.1 6.12 6.18 newest
RECORD ?=
ARGS ?=

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

run: build ## the whole product on this host: collector, agent, live calls (ARGS='--target netns=self')
	bin/spile up $(ARGS)

build: ## bin/spile and bin/spile-agent, static
	$(BUILD) -o bin/spile ./collector
	$(BUILD) -o bin/spile-agent ./agent

test: build ## every test, the eBPF ones and real programs included
	deploy/packages.sh test
	$(GO) run ./deploy/gotest -timeout 14m ./...

check: ## regenerate and compare, vet, lint, house rules
	deploy/packages.sh check
	$(MAKE) --no-print-directory generate
	@git diff --exit-code --stat -- '*.pb.go' '*_bpfel.go' '*_bpfel.o' || { echo 'check: generated files differ from their sources: commit what `make generate` wrote'; exit 1; }
	@test -z "$$(gofmt -l agent bpf collector deploy proto)" || { echo "check: gofmt these:"; gofmt -l agent bpf collector deploy proto; exit 1; }
	$(GO) vet ./...
	GOARCH=arm64 $(GO) vet ./bpf ./agent/...
	$(GO) run $(STATICCHECK) ./...
	$(GO) test -count=1 ./deploy -run '^(TestHouse|TestManifests)'
	$(GO) test -count=1 -v ./bpf -run '^TestVerifierCounts$$'

generate: ## rebuild eBPF objects (clang 14 of Debian 12) and protobuf code
	deploy/packages.sh check
	@v=$$($(CLANG) --version 2>/dev/null | head -1); case "$$v" in *'version 14.'*) ;; *) echo "generate: found '$$v', need clang 14 (Debian 12: apt-get install clang-14): other versions write other bytes"; exit 1;; esac
	mkdir -p bin/tools
	$(GO) build -o bin/tools/ google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc github.com/cilium/ebpf/cmd/bpf2go
	PATH="$$PWD/bin/tools:$$PATH" $(GO) generate ./bpf ./proto/...

matrix: build ## every server and client program of the matrix, 1,000 connections, 5,000 requests/s
	deploy/packages.sh matrix
	TEST_SPILE_MATRIX=1 $(GO) test -count=1 -v -timeout 60m ./deploy -run '^(TestMatrix|TestWrongPeer|TestNoLossAt5000)$$'
	TEST_SPILE_MATRIX=1 $(GO) test -count=1 -v -timeout 20m ./agent/target -run '^TestGoMatrix$$'

bench: build ## the table of what Spile costs, beside empty probes, a mere copy and proxies (BENCH_ROUNDS=5 BENCH_CALLS=48000)
	deploy/packages.sh bench
	TEST_SPILE_BENCH=1 $(GO) test -count=1 -v -timeout 60m ./deploy -run '^TestBench$$'

vmtest: build ## every program and rung, then the product, on Debian's kernels under emulation (KERNELS='6.1', RECORD=1: note verifier counts)
	deploy/packages.sh vm
	SPILE_VM_KERNELS='$(KERNELS)' SPILE_VM_RECORD='$(RECORD)' $(GO) test -count=1 -v -timeout 120m ./bpf/vmtest

soak: build ## load for SOAK (default 20m) while the collector is killed again and again; what may not harm a target, at full size
	deploy/packages.sh test
	TEST_SPILE_SAFETY=full $(GO) test -count=1 -v -timeout 60m ./deploy -run '^TestSafety'
	TEST_SPILE_SAFETY=full $(GO) test -count=1 -v -timeout 30m ./agent/probe -run '^TestCycles$$'
	TEST_SPILE_SOAK=$${SOAK:-20m} $(GO) test -count=1 -v -timeout 0 ./deploy -run TestSoak

fuzz: ## every fuzz target for FUZZTIME each (default 60s)
	deploy/fuzz.sh $${FUZZTIME:-60s}

clean: ## remove what was built
	rm -rf bin

.PHONY: help run build test check generate matrix bench vmtest soak fuzz clean
