# The two commands of a newcomer are `make demo` and `make test`; each sets everything up by itself.
PY := .venv/bin/python
.DEFAULT_GOAL := help
.PHONY: help setup demo test check unit slow kernels lock bench-mincost clean

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

setup:  ## create .venv, install pinned dependencies, compile the kernels
	@sh tools/setup.sh

demo: setup  ## real ML tasks placed by measured links, flow against fifo
	@$(PY) -m federation.cli.main demo

# The kernels' runs take what the suite leaves idle (nice alone counts for nothing between sessions on Linux, which a group
# that can be ended whole needs); what they say is shown after it.
test: setup check  ## everything that must hold
	@said=$$(mktemp); trap 'rm -f "$$said"; kill -- -$$kernels 2>/dev/null' EXIT; trap 'exit 130' HUP INT TERM; \
	  setsid nice -n 5 sh -c '(echo 5 >/proc/self/autogroup) 2>/dev/null; exec "$$@"' sh \
	    $(MAKE) -o setup --no-print-directory kernels >"$$said" 2>&1 & kernels=$$!; \
	  $(MAKE) -o setup --no-print-directory unit; unit_failed=$$?; \
	  wait $$kernels; kernels_failed=$$?; \
	  cat "$$said"; [ $$unit_failed = 0 ] && [ $$kernels_failed = 0 ]
	@echo "[test] all passed"

check: setup  ## lint, format and types
	@echo "[test] ruff and mypy"
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check --quiet .
	@.venv/bin/mypy

unit: setup  ## the suite but for what is marked slow, kernels compiled
	@echo "[test] the suite, kernels compiled"
	@$(PY) -m pytest -m "not slow"

slow: setup  ## the long replays: every shipped scenario against its golden digest, published results
	@$(PY) -m pytest -m slow

kernels: setup  ## kernel tests once interpreted, once with bounds checks
	@echo "[test] kernels interpreted (NUMBA_DISABLE_JIT=1)"
	@NUMBA_DISABLE_JIT=1 $(PY) -m pytest -q -m kernel
	@echo "[test] kernels with bounds checks (NUMBA_BOUNDSCHECK=1)"
	@cache=$$(mktemp -d) && trap 'rm -rf "$$cache"' EXIT && \
	  NUMBA_BOUNDSCHECK=1 NUMBA_CACHE_DIR=$$cache $(PY) -m pytest -q -m kernel

# Not pinned: ray, torch and learn, gigabytes that the suite does without (their tests say so and are skipped).
lock: setup  ## pin again: rewrite requirements.lock from pyproject.toml
	@$(PY) -m pip install --quiet uv
	@.venv/bin/uv pip compile pyproject.toml --extra master --extra gpu --extra dev --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --no-header --no-annotate --quiet -o requirements.lock
	@! grep -nE 'https?://|file://' requirements.lock

bench-mincost: setup  ## the min-cost-flow kernels against other solvers
	@$(PY) -m benchmarks.mincost --json mincost.json

clean:  ## remove what setup and tests made
	@rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
