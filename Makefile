# Three commands on a machine with Python 3.11 and pip: `make niah`, `make report` and `make test`.
# `make help` lists the others.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
TORCH ?= torch==2.13.0
# More arguments for the torch install, e.g. --index-url of a build for another CUDA version.
TORCH_INSTALL_ARGS ?=
CONSTRAINTS ?= constraints.txt
CONFIG ?= configs/eval_llada_niah.py
OPTIONS ?=
# Processes that make training rows (make tiny-models).
WORKERS ?= 14
STAMP := $(VENV)/.installed
# A second environment over the first: all of its packages, but for transformers 4 and what goes with
# it (the last versions that do). The core's tests of loading, RoPE, texts and networks run there, too.
TRANSFORMERS4 := $(VENV)/transformers4
TRANSFORMERS4_PACKAGES := transformers==4.57.6 huggingface_hub==0.36.2 tokenizers==0.22.2
TRANSFORMERS4_TESTS := $(addprefix tests/test_,$(addsuffix .py,declared_rope loaded_weights rope texts \
  modeling sdar published_files dream autoregressive adapters fast_dllm diffusion_gemma))

.PHONY: help install niah datasets suites report test test-transformers4 check format constraints docs tiny-llada-long tiny-models tiny-suites wheel clean

help:
	@echo "make niah         install, then run the needle-in-a-haystack evaluation"
	@echo "                  (CONFIG=..., OPTIONS='--debug -w DIR' for others)"
	@echo "make datasets     run a sample of every data set config whose data is on this machine"
	@echo "make suites       install, run every shipped model on the suites that need no download"
	@echo "make report       install, run every shipped model on three benchmarks, end with an HTML report"
	@echo "make test         install, then run the test suite"
	@echo "make test-transformers4  the core's tests with transformers 4.57, in $(TRANSFORMERS4)"
	@echo "make check        formatting, lint and types"
	@echo "make install      create $(VENV) and install the package with its test tools"
	@echo "                  (PYTHON=python3.12, TORCH=..., TORCH_INSTALL_ARGS='--index-url ...')"
	@echo "make docs         the documentation as a site, build/site/index.html; any warning is an error"
	@echo "make format       rewrite the sources in the house format"
	@echo "make tiny-models  train the shipped models anew, from text (a GPU, COMPASS_DATA_CACHE)"
	@echo "make tiny-llada-long  the same without the autoregressive twin and the block-causal sibling"
	@echo "make tiny-suites  train the shipped models on with rows of the generated suites"
	@echo "make constraints  write the installed versions to constraints.txt"
	@echo "make wheel        build dist/*.whl"
	@echo "make clean        remove what runs and builds left; keeps $(VENV) and outputs/"

install: $(STAMP)

$(STAMP): setup.py requirements.txt constraints.txt
	@test -x $(BIN)/python || command -v $(PYTHON) >/dev/null 2>&1 || { \
	  echo "$(PYTHON) is not on the PATH. Name another Python from 3.10 to 3.12:"; \
	  echo "  make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --no-compile -c $(CONSTRAINTS) $(TORCH_INSTALL_ARGS) '$(TORCH)'
	$(BIN)/python -m pip install --no-compile -c $(CONSTRAINTS) -e '.[test,docs]'
	@# pip compiles on one core. A few files are templates, or of another Python: it passes over them, too.
	$(BIN)/python -m compileall -qq -j 0 \
	  "$$($(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")" || true
	touch $@

niah: install
	$(BIN)/python run.py $(CONFIG) $(OPTIONS)

datasets: install
	$(BIN)/python run.py configs/eval_llada_datasets.py $(OPTIONS)

suites: install
	$(BIN)/python run.py configs/eval_llada_suites.py $(OPTIONS)

report: install
	$(BIN)/python run.py configs/eval_leaderboard.py $(OPTIONS)

check: install
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy

# The variable silences an advertisement of mkdocs-material, which is no warning of the build.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "The documentation is in build/site/index.html; to search it, serve it:"
	@echo "  $(BIN)/python -m http.server -d build/site"

format: install
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

test: install
	$(BIN)/python -m pytest -n 2 $(OPTIONS)

test-transformers4: $(TRANSFORMERS4)/.installed
	@$(TRANSFORMERS4)/bin/python -c "from importlib.metadata import version as v; print('transformers', v('transformers'))"
	$(TRANSFORMERS4)/bin/python -m pytest -n 2 $(TRANSFORMERS4_TESTS)

$(TRANSFORMERS4)/.installed: $(STAMP)
	$(BIN)/python -m venv --clear --without-pip $(TRANSFORMERS4)
	$(BIN)/python -c "import sys; print(*(p for p in sys.path if p.endswith('-packages')), sep='\n')" \
	  > "$$($(TRANSFORMERS4)/bin/python -c "import site; print(site.getsitepackages()[0])")/first.pth"
	@# Few of its files are imported, and compiled then.
	$(TRANSFORMERS4)/bin/python -m pip install --no-compile --no-deps --ignore-installed $(TRANSFORMERS4_PACKAGES)
	touch $@

# After `make install CONSTRAINTS=/dev/null` in a new environment, which resolves afresh.
constraints: $(BIN)/python
	$(BIN)/python -m pip --version
	{ printf '# Versions that the test suite passed with: '; \
	  $(BIN)/python -c "import platform; print('Python', platform.python_version() + ',', platform.system(), platform.machine() + '.')"; \
	  echo '# Refresh: make install CONSTRAINTS=/dev/null in a new environment, make test, make constraints.'; \
	  echo '# A local version (torch 2.13.0+cpu) is written without its suffix, so that any build fits.'; \
	  $(BIN)/python -m pip freeze --exclude-editable --exclude opencompass-llada \
	    | sed -E 's/ @ .*//; s/\+[A-Za-z0-9.]+$$//' | grep '==' ; } > constraints.new
	mv constraints.new constraints.txt
	touch $(STAMP)

# Into checkpoints/; the same command goes on where it stopped.
tiny-llada-long: install
	$(BIN)/python -m opencompass_llada.finetune tiny_models/tiny_pretrain.yaml num_workers=$(WORKERS)
	$(BIN)/python -m opencompass_llada.finetune tiny_models/tiny_long_first.yaml num_workers=$(WORKERS) \
	  init_from=checkpoints/tiny-llada/final
	$(BIN)/python -m opencompass_llada.finetune tiny_models/tiny_long_second.yaml num_workers=$(WORKERS)
	$(BIN)/python -m opencompass_llada.finetune tiny_models/tiny_long_third.yaml num_workers=$(WORKERS)
	$(BIN)/python -m opencompass_llada.finetune tiny_models/tiny_long.yaml num_workers=$(WORKERS)

tiny-models: tiny-llada-long
	$(BIN)/python -m opencompass_llada.finetune tiny_models/tiny_ar_pretrain.yaml num_workers=$(WORKERS)
	$(BIN)/python -m opencompass_llada.finetune tiny_models/tiny_block_pretrain.yaml num_workers=$(WORKERS)

# The shipped models go on with rows of the generated suites; checkpoints/NAME-suites/final.
tiny-suites: install
	for name in llada ar block long; do \
	  $(BIN)/python -m opencompass_llada.finetune tiny_models/tiny_suites_$$name.yaml \
	    num_workers=$(WORKERS) || exit; done

wheel: install
	rm -rf build
	$(BIN)/python -m pip wheel --no-deps --no-build-isolation -w dist .

clean:
	rm -rf build dist tmp .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +
