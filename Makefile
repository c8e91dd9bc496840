# Every target sets up what it needs: a virtual environment in .venv with the project installed in it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT := out
PIP := python -m pip --quiet --disable-pip-version-check

.PHONY: constraints demo test test-latest test-oldest soak kernels plugin lint lines bench train gpu-check trt-check clean

# In the exact versions of constraints.txt, so that what passed once passes again.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/$(PIP) install --editable '.[test,lint]' --constraint constraints.txt
	touch $@

demo: $(VENV)/.installed
	$(BIN)/python examples/shapes_vqa/generate.py --out examples/shapes_vqa/data
	$(BIN)/vitcop run examples/shapes_vqa/recipe.yaml -o $(OUT)
	@echo "report: $(OUT)/report.html"

# The bindings of the last TensorRT 10, which tests read beside those of 11 in the environment: one package, so a folder of
# its own.
TENSORRT_10 := 10.16.1.11
BINDINGS_10 := build/tensorrt-bindings-10.16
$(BINDINGS_10)/.installed: $(VENV)/.installed
	rm -rf $(BINDINGS_10)
	$(BIN)/$(PIP) install --no-deps --only-binary :all: --target $(BINDINGS_10) \
	  "tensorrt-cu13-bindings==$(TENSORRT_10); sys_platform == 'linux'"
	mkdir -p $(BINDINGS_10) && touch $@

# As many processes as the machine has cores, one thread each: the tests are small, and threads would hinder each other.
PYTEST := python -m pytest -n auto --dist loadgroup

test: $(VENV)/.installed $(BINDINGS_10)/.installed
	OMP_NUM_THREADS=1 $(BIN)/$(PYTEST)

soak: $(VENV)/.installed $(BINDINGS_10)/.installed
	OMP_NUM_THREADS=1 $(BIN)/$(PYTEST) -m "slow or not slow"

# Both ends of the ranges in pyproject.toml, each in an environment of its own; docs/releases.md says what was last checked.
test-latest: $(BINDINGS_10)/.installed
	$(PYTHON) -m venv --clear build/latest
	build/latest/bin/$(PIP) install --editable '.[test]'
	OMP_NUM_THREADS=1 build/latest/bin/$(PYTEST)

# Of torch the release of constraints.txt: older ones are not to be had as small builds for the CPU from the package index.
test-oldest: $(BINDINGS_10)/.installed
	$(PYTHON) -m venv --clear build/oldest
	build/oldest/bin/$(PIP) install uv
	grep '^torch==' constraints.txt > build/torch.txt
	build/oldest/bin/uv pip compile --quiet pyproject.toml --extra test --resolution lowest-direct \
	  --override build/torch.txt --output-file build/oldest.txt
	build/oldest/bin/$(PIP) install --editable '.[test]' --constraint build/oldest.txt
	OMP_NUM_THREADS=1 build/oldest/bin/$(PYTEST)

# Writes constraints.txt anew from the newest releases inside the ranges of pyproject.toml. Run the suite before you
# commit it.
constraints:
	$(PYTHON) -m venv --clear build/newest
	build/newest/bin/$(PIP) install --editable '.[test,lint]'
	sed -n '/^#/p' constraints.txt > build/constraints.txt
	build/newest/bin/python -m pip freeze --all --exclude-editable | sed 's/+cpu$$//' | grep -v '^nvidia\|^pip=' \
	  >> build/constraints.txt
	mv build/constraints.txt constraints.txt

kernels: $(VENV)/.installed
	$(BIN)/python -m vitcop.plugins.cuda.build

# The TensorRT plugins: make plugin TENSORRT_INCLUDE_DIR=…/include [CUDA_ARCHITECTURES="80;90"] [TENSORRT_LIBRARY_DIR=…/lib].
# Needs nvcc and CMake, and of Python nothing but the standard library.
CUDA_ARCHITECTURES ?= 80;89;90;100;120
plugin: build/path
	@PYTHONPATH=$(CURDIR)/build/path $(PYTHON) -m vitcop.plugins.tensorrt.build --include "$(TENSORRT_INCLUDE_DIR)" \
	  --arch "$(CUDA_ARCHITECTURES)" --libraries "$(TENSORRT_LIBRARY_DIR)"

# The packages for a python that has them not installed.
.PHONY: build/path
build/path:
	@mkdir -p build/path/vitcop
	@for package in plugins calibrate export pipeline; do ln -sfn $(CURDIR)/$$package build/path/vitcop/$$package; done

lint: $(VENV)/.installed build/path
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/budgets.py
	$(BIN)/python benchmarks/prefill.py
	$(BIN)/python benchmarks/latency_forecast.py
	$(BIN)/python benchmarks/dtypes.py
	$(BIN)/python benchmarks/dependence.py
	$(BIN)/python benchmarks/sets.py
	$(BIN)/python benchmarks/export_time.py
	$(BIN)/python benchmarks/sensitivity.py
	$(BIN)/python benchmarks/selection.py
	$(BIN)/python benchmarks/export_memory.py

train: $(VENV)/.installed
	cd examples/shapes_vqa && ../../$(BIN)/python train.py

# On a machine with an NVIDIA GPU and nvcc. Uses the python at hand, so that a CUDA build of torch is not replaced: the
# packages are found through links in build/path instead of an installation.
gpu-check: build/path
	PYTHONPATH=$(CURDIR)/build/path $(PYTHON) benchmarks/gpu_check.py

# On a machine with an NVIDIA GPU and TensorRT, after `make plugin`. Uses the python at hand, as gpu-check does; the
# samples need scikit-learn.
trt-check: build/path
	PYTHONPATH=$(CURDIR)/build/path $(PYTHON) benchmarks/trt_check.py

# Code lines by package: no blank lines, comments and docstrings.
lines:
	@$(PYTHON) benchmarks/code_lines.py

clean:
	rm -rf $(OUT) $(VENV) build *.egg-info examples/shapes_vqa/data
