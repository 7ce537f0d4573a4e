# Everything here sets up what it needs by itself; `make help` lists the targets.

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS   += --no-print-directory

GO           ?= go
STATICCHECK  := honnef.co/go/tools/cmd/staticcheck@v0.8.2
SETUP        := internal/setup
FUZZTIME     ?= 1m
CI_FUZZTIME  ?= 5s

# Readers of whatever comes from elsewhere: make test fuzzes each for FUZZTIME, all other
# targets for CI_FUZZTIME.
FUZZ_READERS := (safetensors.FuzzReadHeader|gguf.FuzzRead|lora.FuzzPEFTConfig|pth.FuzzPickle|pth.FuzzOpen|generator.FuzzManifest|graph.FuzzDecode|text.FuzzParsePrompts|server.FuzzSubmit)$$
TEST_TIMEOUT ?= 20m

# Without it GoMLX's own backend is sixteen times slower; only amd64 has it.
ifeq ($(shell $(GO) env GOARCH 2>/dev/null),amd64)
export GOEXPERIMENT := simd
endif

# Packages whose tests need a Vulkan device: they run once on each of two drivers.
GPU_PACKAGES = $(shell $(GO) list ./gpu/... 2>/dev/null)

# Packages whose tests need Chromium and the page.
BROWSER_PACKAGES = $(shell $(GO) list ./internal/chromium 2>/dev/null)

# Where tests record their errors for make conformance.
CONFORM = DND_CONFORMANCE=$(CURDIR)/build/conformance/records.jsonl

# The two software drivers, found after set-up has put them there.
LAVAPIPE    = $$(ls /usr/share/vulkan/icd.d/lvp_icd*.json | head -n 1)
SWIFTSHADER = $${SWIFTSHADER_ICD:-/usr/lib/chromium/vk_swiftshader_icd.json}

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: guest ## the commands, into build/bin, and the guest
	$(GO) build -trimpath -o build/bin/ ./cmd/dndgen ./cmd/dndtrain

.PHONY: guest
guest:
	GOOS=wasip1 GOARCH=wasm CGO_ENABLED=0 GOEXPERIMENT= $(GO) build -buildmode=c-shared -trimpath -buildvcs=false -ldflags='-s -w' -o build/wasm/dnd.wasm ./wasm

.PHONY: wasm
wasm: guest ## the guest for wazero and browsers, build/wasm/dnd.wasm, and its size
	@$(GO) run ./internal/wiresize build/wasm/dnd.wasm

.PHONY: man
man: build ## man pages, into build/man, and completion of bash, zsh and fish, into build/completion
	@rm -rf build/man build/completion && mkdir -p build/completion
	@for program in dndgen dndtrain; do \
		build/bin/$$program man --quiet build/man >/dev/null; \
		for shell in bash zsh fish; do build/bin/$$program completion $$shell >build/completion/$$program.$$shell; done; \
	done

.PHONY: release
release: web ## archives for Linux, macOS and Windows with checksums and bills of materials, into build/release
	$(GO) run ./internal/release -out build/release

# A task that the shipped generator was not fitted on.
DEMO_PROMPTS := models/data/test/topic-tag.json
DEMO_INPUTS  := build/data-inputs/test/topic-tag.json
DEMO_BASE    := build/deps/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf

.PHONY: web
web: guest ## the page, into build/web, and the npm package, into web/dist
	@$(SETUP)/npm.sh
	cd web && npx tsc --noEmit && node build.mjs --wasm ../build/wasm/dnd.wasm --site ../build/web --remote ../build/web-test/remote.js
	cd web && npx tsc --project tsconfig.types.json

.PHONY: demo
demo: deps-run build ## an adapter from the prompts of an unseen task, and the base model's answers with it
	build/bin/dndgen generate --prompts $(DEMO_PROMPTS) --out build/demo/adapter
	build/bin/dndtrain answer --base $(DEMO_BASE) --adapter build/demo/adapter --prompts $(DEMO_PROMPTS)

.PHONY: demo-inputs
demo-inputs: deps-run build build/data-inputs/grid.json ## the same where only the prompts, not the questions, say what is asked for
	build/bin/dndgen generate --generator models/inputs --prompts $(DEMO_INPUTS) --out build/demo/inputs
	build/bin/dndtrain answer --base $(DEMO_BASE) --adapter build/demo/inputs --prompts $(DEMO_INPUTS) --field input

.PHONY: science
science: deps-run build ## the claim from nothing: a tiny base, its LoRAs, a generator, tasks it never saw
	@$(SETUP)/assets.sh minilm
	build/bin/dndtrain science --out build/science

# models/tier-m-short.json is the smaller one, of fewer checkpoints and records;
# models/tier-m-inputs.json one where the base is not told what to do (build/data-inputs).
TIER_M_PLAN := models/tier-m.json

.PHONY: tier-m
tier-m: deps-run build build/data-inputs/grid.json ## the experiment of TIER_M_PLAN on a real base: half a day of two cores; it goes on where it was stopped
	@$(SETUP)/assets.sh minilm
	@$(SETUP)/assets.sh smollm2
	build/bin/dndtrain experiment --plan $(TIER_M_PLAN) --base $(DEMO_BASE) --encoder build/deps/minilm --out build/$(basename $(notdir $(TIER_M_PLAN)))

# The last file that is written.
build/data-inputs/grid.json: $(wildcard models/data/*.json models/data/*/*.json internal/maketasks/*.go)
	$(GO) run ./internal/maketasks --inputs models/data --out build/data-inputs

.PHONY: test
test: lint deps build web ## lint, then every test; those of GPU code on two Vulkan drivers and in Chromium
	VK_DRIVER_FILES=$(LAVAPIPE) $(GO) test -timeout $(TEST_TIMEOUT) $$($(GO) list ./... | grep -vxF -f <(printf '%s\n' $(GPU_PACKAGES) $(BROWSER_PACKAGES)))
	@# -count=1: the driver is no part of what Go's test cache looks at.
	VK_DRIVER_FILES=$(SWIFTSHADER) $(GO) test -count=1 -timeout $(TEST_TIMEOUT) $(GPU_PACKAGES)
	VK_DRIVER_FILES=$(LAVAPIPE) $(GO) test -count=1 -timeout $(TEST_TIMEOUT) $(GPU_PACKAGES)
	@# -short: a browser on a software device takes minutes for the largest cases, which the two above have run.
	$(GO) test -count=1 -short -timeout $(TEST_TIMEOUT) $(BROWSER_PACKAGES)
	$(GO) run ./internal/madeup/write build/web-test/madeup
	npm test --prefix web
	$(GO) run ./internal/fuzz -time $(CI_FUZZTIME)
	$(GO) run ./internal/fuzz -time $(FUZZTIME) -only '$(FUZZ_READERS)'
	$(GO) test -race $(RACE_QUICK)
	$(GO) test -race -run 'TestFetch|TestTwoProcesses|TestWaitEnds|TestSigned' ./hub

.PHONY: conformance
conformance: deps build web ## every backend's largest errors against the official outputs, as a table
	@rm -rf build/conformance && mkdir -p build/conformance
	$(CONFORM) $(GO) test -count=1 -run 'TestDecode$$|TestEncode$$|TestGeneration$$' ./trainer/infer
	VK_DRIVER_FILES=$(LAVAPIPE) $(CONFORM) $(GO) test -count=1 -timeout $(TEST_TIMEOUT) -run 'TestConformance|TestGeneration' ./gpu
	VK_DRIVER_FILES=$(SWIFTSHADER) $(CONFORM) $(GO) test -count=1 -timeout $(TEST_TIMEOUT) -run 'TestConformance|TestGeneration' ./gpu
	$(CONFORM) $(GO) test -count=1 -timeout $(TEST_TIMEOUT) $(BROWSER_PACKAGES)
	@if build/bin/dndgen devices --json | grep '"type"' | grep -qv software; then \
		$(CONFORM) $(GO) test -count=1 -timeout $(TEST_TIMEOUT) -run 'TestConformance|TestGeneration' ./gpu; \
	else echo '{"backend":"a GPU","skipped":"there is none here"}' >>build/conformance/records.jsonl; fi
	$(GO) run ./internal/conformance/report build/conformance/records.jsonl build/conformance

.PHONY: lint
lint: ## gofmt, vet, staticcheck, the wasm build and the layering of packages
	@unformatted=$$(gofmt -l $$(git ls-files '*.go' 2>/dev/null || find cmd graph gpu internal trainer wgsl -name '*.go')); \
		[ -z "$$unformatted" ] || { echo "gofmt: $$unformatted"; exit 1; }
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...
	GOOS=wasip1 GOARCH=wasm CGO_ENABLED=0 GOEXPERIMENT= $(GO) build -o /dev/null ./graph/... ./wgsl ./wasm
	GOOS=wasip1 GOARCH=wasm CGO_ENABLED=0 GOEXPERIMENT= $(GO) vet ./wasm
	CGO_ENABLED=0 $(GO) build ./host
	@outside=$$($(GO) list -deps ./graph/... ./wgsl | grep -E '/gomlx/|cogentcore/webgpu|^syscall/js$$' || true); \
		[ -z "$$outside" ] || { echo "graph and wgsl must not import: $$outside"; exit 1; }
	@outside=$$($(GO) list -deps ./host | grep -E '/gomlx/|cogentcore/webgpu|dnd/(gpu|trainer|cmd|internal)(/|$$)' || true); \
		[ -z "$$outside" ] || { echo "host must not import: $$outside"; exit 1; }

# Work is counted for every shape, and measured for the one that is done in no time: what
# is compared are counts, and speed over what the same device reaches in the same minute.
BASELINE     := bench/baseline.json
BENCH_SHAPES := 0.5b 1.5b-coding 1.5b-math 7b-coding 7b-math 3b-vl

.PHONY: bench bench-baseline
bench: MODE := --compare
bench-baseline: MODE := --out
bench: ## work and efficiency against bench/baseline.json, then every Go benchmark
bench-baseline: ## writes bench/baseline.json, with lavapipe for WebGPU
bench bench-baseline: deps-run build
	@for backend in cpu pjrt webgpu; do \
		for shape in $(BENCH_SHAPES); do \
			VK_DRIVER_FILES=$(LAVAPIPE) build/bin/dndgen bench --quiet --shape $$shape --backend $$backend --count $(MODE) $(BASELINE); \
		done; \
		VK_DRIVER_FILES=$(LAVAPIPE) build/bin/dndgen bench --quiet --shape mini --backend $$backend --stage decode --runs 5 $(MODE) $(BASELINE); \
	done
	$(if $(filter --compare,$(MODE)),$(GO) test -run '^$$' -bench . ./...)

.PHONY: bench-table
SHAPE ?= 0.5b
bench-table: deps build ## PyTorch and dndgen by turns on SHAPE (0.5b), as a table
	build/bin/dndgen bench --shape $(SHAPE) --against bench/pytorch.py

.PHONY: bench-browser
bench-browser: deps build web ## the shipped generator's decoder in Chromium, beside onnxruntime-web's, as a table
	npm ci --prefix web/bench --silent --no-audit --no-fund
	cd web && npx tsc --project bench/tsconfig.json
	@mkdir -p build/bench
	build/deps/venv/bin/python -W ignore bench/onnx.py --generator models/default --out build/bench/decoder.onnx
	cd web && node bench/run.mjs --generator ../models/default --onnx ../build/bench/decoder.onnx --prompts ../$(DEMO_PROMPTS) --base ../$(DEMO_BASE)

.PHONY: load-test
load-test: build ## dndgen serve --api under 64 clients for two minutes, killed in the middle, as a table
	$(GO) run ./internal/server/loadtest/run -- --backend cpu --queue 16

.PHONY: consumers
consumers: deps ## what PEFT, mlx-lm and llama.cpp compute with the adapters, as the table of docs/consumers.md
	$(GO) test -count=1 -v -run 'TestLogits|TestVersions' ./internal/consumers -args -table | grep -E '^\||gguf:|differs|FAIL|^ok'

.PHONY: soak
soak: deps build ## dndgen serve --api makes 10,000 small adapters on SwiftShader, and must not grow, as a table
	VK_DRIVER_FILES=$(SWIFTSHADER) $(GO) run ./internal/server/loadtest/soak -- --backend webgpu

.PHONY: kill-test
kill-test: build ## kill -9 in the middle of pull, generate, collect and fit, 200 times, as a table
	$(GO) run ./internal/killtest/run

# What uses goroutines, and what of it is quick under the detector. Package trainer/infer is left out: its loops run for minutes under the
# detector, and their goroutines are those of trainer/fftconv.
RACE_PACKAGES := ./cmd/internal/... ./graph/combine ./host ./hub/... ./internal/server/... ./trainer/fit ./trainer/fftconv ./gpu
RACE_QUICK    := ./cmd/internal/cli ./graph/combine ./internal/server/jobs ./internal/server/results

.PHONY: race
race: deps ## the race detector over everything that uses goroutines
	@# GoMLX's kernels make pointers just beyond their matrices, which the checks that come with -race refuse.
	VK_DRIVER_FILES=$(LAVAPIPE) $(GO) test -race -gcflags='github.com/gomlx/compute/...=-d=checkptr=0' -count=1 -timeout $(TEST_TIMEOUT) $(RACE_PACKAGES)

.PHONY: fuzz
fuzz: ## every fuzz target, FUZZTIME (1m) each on one processor, and their executions as a table
	$(GO) run ./internal/fuzz -time $(FUZZTIME)

.PHONY: deps
deps: deps-run ## what the tests need besides Go: drivers, weights, a Python with PEFT
	@$(SETUP)/system.sh chromium
	@$(SETUP)/system.sh torch
	@$(SETUP)/assets.sh minilm
	@$(SETUP)/python.sh
	@$(SETUP)/consumers.sh
	@$(SETUP)/system.sh vulkan

# What it takes to run the commands. They do without Vulkan if they must.
.PHONY: deps-run
deps-run:
	@$(SETUP)/system.sh vulkan || true
	@$(SETUP)/assets.sh smollm2
	@$(SETUP)/assets.sh pjrt

.PHONY: clean
clean: ## removes what was built; what was fetched stays, in build/deps
	find build -mindepth 1 -maxdepth 1 ! -name deps -exec rm -rf {} +
