# BEI-Runtime. `make help` lists the targets. Everything fetched lies in .deps/, everything built in dist/.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

PYTHON ?= python3
GO ?= go
CARGO ?= cargo
CXX ?= g++

# Seconds that `make fuzz` spends in all; least statement coverage of backend/... in percent.
FUZZTIME ?= 60
COVER_MIN ?= 85
# Where `make run_embed` listens; without PORT the first free one from 8080.
HOST ?= 127.0.0.1
PORT ?=
BENCH_ARGS ?=
# For pytest, such as -k openai.
E2E_ARGS ?=
# Seconds of the soak's overload: 600 and more is the long form, with a million answers. The other phases take some 40 s.
SOAK_SECONDS ?= 600
SOAK_ARGS ?=

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

# TensorRT's shim: a library for each major version of TensorRT, since its headers bind one. 10 is built where TENSORRT_ROOT
# names a TensorRT 10 with include/ and lib/; the headers of the others are fetched. The C++ runtime is linked in.
TENSORRT_ROOT ?=
TRT_INCLUDE_rtx1 := $(DEPS)/tensorrt/include/rtx1
TRT_INCLUDE_11 := $(DEPS)/tensorrt/include/11
TRT_INCLUDE_10 := $(TENSORRT_ROOT)/include
TRT_CXXFLAGS := -std=c++17 -O2 -g -fPIC -fvisibility=hidden -ffile-prefix-map=$(CURDIR)/= -Wall -Wextra -Werror
TRT_LDFLAGS := -shared -static-libstdc++ -static-libgcc -Wl,--version-script=trt/shim/shim.map -Wl,--gc-sections -Wl,-z,relro -Wl,-z,now \
	-Wl,-z,nodelete -Wl,-z,noexecstack -Wl,--no-undefined
# Seconds that a test binary of trt/ may take: it builds hundreds of plans.
TRT_TIMEOUT ?= 3600
PACK_ARGS ?=

.PHONY: help setup build build_lib test test_unit test_integration test_race test_asan fuzz lint format bench bench_gpu bench_router soak faults run_embed clean \
	setup_tensorrt setup_kernels setup_gpu setup_e2e test_e2e build_trt install_gpu test_tensorrt pack_gpu always

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9_]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## fetch and build the pinned dependencies of deps.json into .deps/
	@$(PYTHON) scripts/deps.py runtime

setup_tensorrt: ## fetch TensorRT's headers, TensorRT-RTX and the lean runtime (140 MB; x86-64 only) into .deps/tensorrt/
	@$(PYTHON) scripts/deps.py tensorrt

setup_kernels: ## fetch NVRTC (90 MB; x86-64 only) and compile our CUDA kernels into .deps/gpu/
	@$(PYTHON) scripts/deps.py kernels

setup_gpu: setup_kernels ## fetch ONNX Runtime with its CUDA provider (256 MB; x86-64 only) into .deps/gpu/
	@$(PYTHON) scripts/deps.py gpu

# Everything is pinned, what the clients need as well, so that --no-deps leaves nothing out.
E2E := $(DEPS)/e2e
E2E_STAMP := $(DEPS)/stamps/e2e-$(shell sha256sum rust-example/e2e/requirements.txt | cut -c 1-16)

setup_e2e: $(E2E_STAMP) ## make the Python environment of test_e2e, .deps/e2e (250 MB; Python 3.11 or later)

$(E2E_STAMP):
	@mkdir -p $(DEPS)/stamps && rm -f $(DEPS)/stamps/e2e-*
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "the clients need Python 3.11 or later; fix: make PYTHON=python3.11")'
	$(PYTHON) -m venv --clear $(E2E)
	@# Three attempts: networks fail for moments.
	for pause in 5 20 0; do \
		$(E2E)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r rust-example/e2e/requirements.txt && exit; \
		sleep $$pause; done; exit 1
	@touch $@

build: build_lib ## build libbei.so, bei.h, bei.pc, bei, bei-router and bei-grpc-backend into dist/
	@mkdir -p $(DIST)/.new
	$(GO) build -buildvcs=false -trimpath -ldflags "$(GO_LDFLAGS)" -o $(DIST)/.new/bei ./cmd/bei
	@cd $(DIST)/.new && mv -f bei ..
	$(RUST) build --release --locked
	@cp $(addprefix rust-example/target/release/,bei-router bei-grpc-backend) $(DIST)/.new/
	@cd $(DIST)/.new && mv -f bei-router bei-grpc-backend .. && rmdir ../.new
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

build_trt: setup_tensorrt ## build TensorRT's shim into dist/: libbei_trt_rtx1.so, _11.so, and _10.so where TENSORRT_ROOT has TensorRT 10
	@command -v $(firstword $(CXX)) > /dev/null || { echo "$(CXX) is not on PATH; fix: apt-get install g++"; exit 1; }
	@# A make of its own, so that it sees what setup_tensorrt has fetched.
	@shims="$(DIST)/libbei_trt_rtx1.so $(DIST)/libbei_trt_11.so"; reason=; header="$(TENSORRT_ROOT)/include/NvInferVersion.h"; \
	if [ -z "$(TENSORRT_ROOT)" ]; then reason="TENSORRT_ROOT is not set"; \
	elif [ ! -f "$$header" ]; then reason="there is no $$header"; \
	else major=$$(printf '#include <NvInferVersion.h>\nNV_TENSORRT_MAJOR\n' | $(CXX) -E -P -x c++ -I "$(TENSORRT_ROOT)/include" - | tail -n 1); \
		if [ "$$major" = 10 ]; then shims="$$shims $(DIST)/libbei_trt_10.so"; else reason="TENSORRT_ROOT has version $$major"; fi; fi; \
	$(MAKE) --no-print-directory $$shims && if [ -n "$$reason" ]; then echo "libbei_trt_10.so is not built: $$reason"; fi

install_gpu: build build_trt setup_gpu ## build all for a machine with an NVIDIA GPU into dist/, with TensorRT-RTX and ONNX Runtime's CUDA provider
	@# Whole folders take the place of what was there: a running process keeps the files that it has mapped, and none of an older pin stays.
	@rm -rf $(DIST)/.gpu && mkdir -p $(DIST)/.gpu
	@cp -R $(DEPS)/tensorrt/lib $(DIST)/.gpu/tensorrt && cp -R $(DEPS)/gpu/onnxruntime $(DIST)/.gpu/onnxruntime-gpu
	@cd $(DIST) && rm -rf tensorrt onnxruntime-gpu && mv .gpu/tensorrt .gpu/onnxruntime-gpu . && rmdir .gpu
	@echo "dist/ is complete for a GPU: $$(du -sh $(DIST) | cut -f 1)"

$(DIST)/libbei_trt_%.so: $(wildcard trt/shim/*) trt/shim.h Makefile $(DEPS)/stamps/tensorrt-headers $(DEPS)/stamps/cuda-headers
	@mkdir -p $(DIST)/.trt
	$(CXX) $(TRT_CXXFLAGS) -isystem $(TRT_INCLUDE_$*) -isystem $(DEPS)/tensorrt/include/cuda trt/shim/*.cpp $(TRT_LDFLAGS) \
		-Wl,-soname,$(@F) -ldl -o $(DIST)/.trt/$(@F)
	$(PYTHON) scripts/check_library.py $(DIST)/.trt/$(@F) trt/shim.h
	@# Renamed, not copied over: a running process keeps the file that it has mapped.
	@mv -f $(DIST)/.trt/$(@F) $@

# Of another TENSORRT_ROOT than last time, perhaps.
$(DIST)/libbei_trt_10.so: always

test: test_unit test_race test_integration ## run all tests but those of trt/ that need TensorRT, which test_tensorrt runs

test_unit: setup ## tests of the Go packages that need no built library, with coverage and on lesser CPUs' kernels, and of the scripts
	$(PYTHON) -m unittest discover -s scripts -p '*_test.py'
	@# Code counts as covered whichever package's test runs it: the engine's tests are those of its C shim and of the suite.
	$(GO) test -coverpkg=./backend/... -coverprofile=$(DEPS)/cover.out ./backend/...
	for level in scalar vec128; do BEI_CPU_LEVEL=$$level $(GO) test -run '^Test(Golden|Synthetic|MiniLM)$$' ./backend/engine/onnx || exit 1; done
	@$(GO) tool cover -func=$(DEPS)/cover.out | awk '/^total:/ {found = 1; sub("%", "", $$3); print "coverage of backend/...: " $$3 " %"; \
		if ($$3 + 0 < $(COVER_MIN)) {print "below the minimum of $(COVER_MIN) %"; exit 1}} END {if (!found) exit 1}'

test_race: setup ## the Go packages under the race detector
	@# Go gives a package 10 minutes, which a slow machine may need.
	$(GO) test -race -timeout 30m ./backend/...
	@# -short: without those tests of trt/ that need TensorRT's library, which test_tensorrt runs.
	$(GO) test -race -short ./trt/...

test_integration: build setup_e2e ## Rust tests, the end-to-end suite, then the C, Python, Go and command-line tests on what is in dist/
	$(RUST) test --workspace --locked
	$(RUN_E2E)
	$(GO) test -count=1 $$($(GO) list ./... | grep -v -e '^$(MODULE)/backend' -e '^$(MODULE)/trt')

# What it makes of the protocols and keeps of itself lies in folders that it removes.
RUN_E2E = PYTHONDONTWRITEBYTECODE=1 $(E2E)/bin/python -m pytest -q -p no:cacheprovider rust-example/e2e $(E2E_ARGS)

test_e2e: build setup_e2e ## the router and the gRPC backend of dist/ by the clients that people use (openai, huggingface_hub, cohere, grpcio); E2E_ARGS
	$(RUN_E2E)

# The tests append to the file of BEI_PLANS how many plans they have built; BEI_TENSORRT_TESTS makes those fail that skip elsewhere.
test_tensorrt: setup setup_kernels build_trt ## tests of trt/, which build plans without a GPU, and of our CUDA kernels, compiled for the CPU
	BEI_KERNEL_TESTS=1 $(GO) test -count=1 ./backend/engine/onnx/cuda
	@rm -f $(DEPS)/plans
	BEI_TENSORRT_TESTS=1 BEI_PLANS=$(DEPS)/plans $(GO) test -count=1 -timeout $(TRT_TIMEOUT)s ./trt/...
	@touch $(DEPS)/plans && awk '{n += $$1} END {if (n < 1) {print "no test has built a plan"; exit 1} print "built " n " plans"}' $(DEPS)/plans

# Go, C and Rust are instrumented, and report to one runtime, the C compiler's. ONNX Runtime and the tokenizer are not: of them the
# allocations are seen. RUSTC_BOOTSTRAP lets stable Rust take the flags of its sanitizers. The Go runtime has its own signal stacks
# and its own handler of SIGSEGV.
ASAN := $(CURDIR)/rust-example/target/asan
ASAN_RUSTFLAGS := -Zsanitizer=address -Zexternal-clangrt -Zpre-link-args=-Wl,--no-as-needed -Zpre-link-args=-lasan
test_asan: export ASAN_OPTIONS := detect_leaks=1:use_sigaltstack=0:handle_segv=0
test_asan: setup ## tests of bei-backend on the library, both under AddressSanitizer, leaks too (gcc and stable Rust)
	@mkdir -p $(ASAN)/lib
	$(GO) build -asan -buildvcs=false -trimpath -buildmode=c-shared -ldflags "-X $(MODULE)/backend.Version=$(VERSION) \
		-extldflags '-Wl,--version-script=$(CURDIR)/capi/bei.map -Wl,-soname,libbei.so -Wl,-z,nodelete'" -o $(ASAN)/lib/libbei.so ./capi
	@cp $(DEPS)/onnxruntime/libonnxruntime.so.1 $(ASAN)/lib/
	cd rust-example && BEI_LIB_DIR=$(ASAN)/lib RUSTC_BOOTSTRAP=1 RUSTFLAGS="$(ASAN_RUSTFLAGS)" CARGO_TARGET_DIR=$(ASAN) \
		$(CARGO) test --locked -p bei-backend --target "$$(rustc -vV | sed -n 's/^host: //p')" \
		-- --skip a_large_block_is_counted # by glibc's allocator, whose place AddressSanitizer's takes

fuzz: setup ## run every fuzz target; FUZZTIME=60 seconds in all
	$(PYTHON) scripts/fuzz.py $(FUZZTIME)

lint: build ## gofmt, vet, staticcheck, golangci-lint, rustfmt, clippy, cargo-deny, clang-format, go mod tidy, tree rules
	@$(PYTHON) scripts/deps.py lint
	$(PYTHON) scripts/check_tree.py
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$unformatted" || { echo "not gofmt'ed: $$unformatted"; exit 1; }
	$(GO) mod tidy -diff
	$(GO) vet ./...
	$(DEPS)/bin/staticcheck ./...
	$(DEPS)/bin/golangci-lint run ./...
	git ls-files '*.c' '*.cpp' '*.cu' '*.h' | xargs $(DEPS)/bin/clang-format --dry-run --Werror
	$(RUST) fmt --all --check
	@# Licences, names and origins of crates: of every platform's, which the build has not all fetched.
	$(RUST) fetch --locked --quiet
	cd rust-example && $(DEPS)/bin/cargo-deny --offline --locked check --hide-inclusion-graph bans licenses sources
	$(RUST) clippy --workspace --all-targets --locked -- -D warnings

format: ## rewrite Go, Rust and C sources in the form that lint wants
	@$(PYTHON) scripts/deps.py lint
	gofmt -w $$(git ls-files '*.go')
	cd rust-example && $(CARGO) fmt --all
	git ls-files '*.c' '*.cpp' '*.cu' '*.h' | xargs $(DEPS)/bin/clang-format -i

bench: build ## compare speed with sentence-transformers (makes .deps/venv-bench); BENCH_ARGS are passed on
	$(PYTHON) bench/bench.py $(BENCH_ARGS)

bench_router: build ## what the router costs: mock engine at no cost, 64 connections; BENCH_ARGS are passed on
	$(PYTHON) bench/router.py $(BENCH_ARGS)

soak: build ## the router under twice its load, and stopped in the middle; every answer checked. SOAK_SECONDS=600
	$(PYTHON) scripts/soak.py --seconds $(SOAK_SECONDS) $(SOAK_ARGS)

faults: build ## the router under load with an engine that fails, hangs, panics or is lost; every answer checked
	$(PYTHON) scripts/faults.py

# No build here: a GPU machine may have no Go. It wants dist/ as `make build` leaves it, there or brought along.
bench_gpu: ## on a GPU machine with dist/ and torch: our engines beside torch eager and torch.compile; BENCH_ARGS are passed on
	$(PYTHON) bench/gpu/bench.py $(BENCH_ARGS)

# Test binaries, libraries and data for a machine without Go, Rust or network.
pack_gpu: build build_trt setup_gpu ## pack tests, benches and libraries for a GPU machine into dist/gpu/; PACK_ARGS are passed on
	$(PYTHON) scripts/pack_gpu.py $(PACK_ARGS)

run_embed: build ## start the router on all-MiniLM-L6-v2 and print a curl line; HOST=127.0.0.1 PORT=8080
	@exec $(PYTHON) scripts/run_embed.py $(DIST)/bei-router $(MODEL) $(HOST) $(PORT)

clean: ## remove dist/ and the Rust build; .deps/ stays (delete it by hand to fetch again)
	rm -rf $(DIST) rust-example/target
