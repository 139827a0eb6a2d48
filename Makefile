# BEI-Runtime. `make help` lists the targets. Everything fetched lies in .deps/, everything built in dist/.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

PYTHON ?= python3
GO ?= go
CARGO ?= cargo

# Seconds that `make fuzz` spends in all; least statement coverage of backend/... in percent.
FUZZTIME ?= 60
COVER_MIN ?= 85
# Where `make run_embed` listens; without PORT the first free one from 8080.
HOST ?= 127.0.0.1
PORT ?=
BENCH_ARGS ?=

DIST := $(CURDIR)/dist
DEPS := $(CURDIR)/.deps
MODEL := $(DEPS)/models/all-MiniLM-L6-v2
MODULE := github.com/basetenlabs/bei-runtime
TAG := $(shell git describe --tags --match 'v[0-9]*' --dirty 2>/dev/null)
VERSION := $(if $(TAG),$(patsubst v%,%,$(TAG)),0.1.0-dev)

# nvml.h marks functions deprecated that go-nvml still binds: 150 lines of warnings on a first build otherwise.
export CGO_CFLAGS ?= -g -O2 -Wno-deprecated-declarations
# For the tests that use what `make build` leaves.
export BEI_DIST := $(DIST)

RUST := cd rust-example && BEI_LIB_DIR=$(DIST) $(CARGO)

GO_LDFLAGS := -s -w -X $(MODULE)/backend.Version=$(VERSION)
# Hidden symbols, a SONAME, complete binding at load time, never unloaded (the Go runtime cannot be), nothing undefined.
SO_LDFLAGS := -Wl,--version-script=$(CURDIR)/capi/bei.map -Wl,-soname,libbei.so -Wl,--gc-sections -Wl,-z,relro -Wl,-z,now \
	-Wl,-z,nodelete -Wl,-z,noexecstack -Wl,--no-undefined -static-libgcc

.PHONY: help setup build build_lib test test_unit test_integration test_race fuzz lint format bench bench_gpu run_embed clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z_]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## fetch and build the pinned dependencies of deps.json into .deps/
	@$(PYTHON) scripts/deps.py runtime

build: build_lib ## build libbei.so, bei.h, bei.pc, bei and bei-router into dist/
	@mkdir -p $(DIST)/.new
	$(GO) build -buildvcs=false -trimpath -ldflags "$(GO_LDFLAGS)" -o $(DIST)/.new/bei ./cmd/bei
	@cd $(DIST)/.new && mv -f bei ..
	$(RUST) build --release --locked
	@cp rust-example/target/release/bei-router $(DIST)/.new/ && mv -f $(DIST)/.new/bei-router $(DIST)/ && rmdir $(DIST)/.new
	@echo "dist/ holds version $(VERSION): $$(ls $(DIST) | tr '\n' ' ')"

build_lib: setup ## build libbei.so, bei.h and bei.pc into dist/
	@# An interrupted build may have left parts.
	@rm -rf $(DIST)/.new && mkdir -p $(DIST)/.new
	$(GO) build -buildvcs=false -trimpath -buildmode=c-shared -ldflags "$(GO_LDFLAGS) -extldflags '$(SO_LDFLAGS)'" -o $(DIST)/.new/libbei.so ./capi
	$(PYTHON) scripts/check_library.py $(DIST)/.new/libbei.so include/bei.h
	@sed 's/@VERSION@/$(VERSION)/' include/bei.pc.in > $(DIST)/.new/bei.pc
	@cp include/bei.h $(DEPS)/onnxruntime/libonnxruntime.so.1 $(DIST)/.new/
	@rm -f $(DIST)/.new/libbei.h
	@# Renamed, not copied over: a running router keeps the file that it has mapped.
	@cd $(DIST)/.new && mv -f libbei.so bei.pc bei.h libonnxruntime.so.1 .. && rmdir ../.new

test: test_unit test_race test_integration ## run all tests

test_unit: setup ## tests of the Go packages that need no built library, with coverage and on lesser CPUs' kernels, and of the scripts
	$(PYTHON) -m unittest discover -s scripts -p '*_test.py'
	@# Code counts as covered whichever package's test runs it: the engine's tests are those of its C shim and of the suite.
	$(GO) test -coverpkg=./backend/... -coverprofile=$(DEPS)/cover.out ./backend/...
	for level in scalar vec128; do BEI_CPU_LEVEL=$$level $(GO) test -run '^Test(Golden|Synthetic|MiniLM)$$' ./backend/engine/onnx || exit 1; done
	@$(GO) tool cover -func=$(DEPS)/cover.out | awk '/^total:/ {found = 1; sub("%", "", $$3); print "coverage of backend/...: " $$3 " %"; \
		if ($$3 + 0 < $(COVER_MIN)) {print "below the minimum of $(COVER_MIN) %"; exit 1}} END {if (!found) exit 1}'

test_race: setup ## the Go packages under the race detector
	$(GO) test -race ./backend/...

test_integration: build ## Rust tests, then the C, Python, Go and command-line tests on what is in dist/
	$(RUST) test --workspace --locked
	$(GO) test -count=1 $$($(GO) list ./... | grep -v '^$(MODULE)/backend')

fuzz: setup ## run every fuzz target; FUZZTIME=60 seconds in all
	$(PYTHON) scripts/fuzz.py $(FUZZTIME)

lint: build ## gofmt, vet, staticcheck, golangci-lint, rustfmt, clippy, clang-format, go mod tidy, tree rules
	@$(PYTHON) scripts/deps.py lint
	$(PYTHON) scripts/check_tree.py
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$unformatted" || { echo "not gofmt'ed: $$unformatted"; exit 1; }
	$(GO) mod tidy -diff
	$(GO) vet ./...
	$(DEPS)/bin/staticcheck ./...
	$(DEPS)/bin/golangci-lint run ./...
	git ls-files '*.c' '*.h' | xargs $(DEPS)/bin/clang-format --dry-run --Werror
	$(RUST) fmt --all --check
	$(RUST) clippy --workspace --all-targets --locked -- -D warnings

format: ## rewrite Go, Rust and C sources in the form that lint wants
	@$(PYTHON) scripts/deps.py lint
	gofmt -w $$(git ls-files '*.go')
	cd rust-example && $(CARGO) fmt --all
	git ls-files '*.c' '*.h' | xargs $(DEPS)/bin/clang-format -i

bench: build ## compare speed with sentence-transformers (makes .deps/venv-bench); BENCH_ARGS are passed on
	$(PYTHON) bench/bench.py $(BENCH_ARGS)

# No build here: a GPU machine may have no Go. It wants dist/ as `make build` leaves it, there or brought along.
bench_gpu: ## on a GPU machine with dist/ and torch: our engines beside torch eager and torch.compile; BENCH_ARGS are passed on
	$(PYTHON) bench/gpu/bench.py $(BENCH_ARGS)

run_embed: build ## start the router on all-MiniLM-L6-v2 and print a curl line; HOST=127.0.0.1 PORT=8080
	@exec $(PYTHON) scripts/run_embed.py $(DIST)/bei-router $(MODEL) $(HOST) $(PORT)

clean: ## remove dist/ and the Rust build; .deps/ stays (delete it by hand to fetch again)
	rm -rf $(DIST) rust-example/target
