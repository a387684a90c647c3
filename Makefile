# On a fresh clone: `make demo` shows the main job, `make test` checks everything that is quick to check.
PYTHON ?= $(or $(shell command -v python3.11),$(shell command -v python3.12),python3)
VENV := .venv
RUN := $(VENV)/bin/python
# litert-torch, with which `make foreign` compares; its packages take 2.2 GB.
LITERT := out/litert-venv
# One process per core; a process that has run out of tests takes some from the others.
PYTEST := $(RUN) -m pytest --numprocesses auto --dist worksteal

# Also holds in the environments where pip builds source packages.
export PIP_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test slow fuzz faults mutants foreign provenance
.DELETE_ON_ERROR:

demo: $(VENV)/installed-lce
	$(RUN) examples/demo.py

test: $(VENV)/installed-dev
	$(RUN) -m ruff check .
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports --no-logo
	$(PYTEST) -m "not slow"

# pytest's exit code 5 means that no test is marked slow.
slow: $(VENV)/installed-dev
	@$(PYTEST) -m slow || { code=$$?; test $$code -eq 5 && echo "no test is marked slow: nothing to run"; }

# Damages files of every kind and opens them, for some eight minutes on two cores. make fuzz SEED=1 repeats a run.
fuzz: $(VENV)/installed-dev
	PYTHONPATH=tests:. OMP_NUM_THREADS=1 $(RUN) -m fuzz $(if $(SEED),--seed $(SEED))

# Conversions that are killed at random moments, or whose disk is full: nothing may be half written or lost.
faults: $(VENV)/installed-lce
	$(RUN) tests/faults/faults.py

# How other people's networks fare, as a page of the documentation. It goes on where it was stopped.
foreign: $(VENV)/installed-dev $(LITERT)/installed
	$(RUN) benchmarks/foreign.py --litert $(LITERT) --output docs/foreign.md

# The papers' printed numbers beside what binmat counts, as a page of the documentation.
provenance: $(VENV)/installed-dev
	$(RUN) -m binmat.reports.provenance docs/provenance.md

# Faults are injected into every step of an export: verification must notice them all.
mutants: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 PYTHONPATH=tests $(RUN) -m mutants

$(RUN):
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info[:2] <= (3, 12) else \
		"binmat needs Python 3.11 or 3.12, this is " + sys.version.split()[0] + ": make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)

PACKAGING := pyproject.toml constraints.txt

$(VENV)/installed-lce: $(PACKAGING) | $(RUN)
	@echo "Installing binmat and its dependencies into $(VENV); the first time takes some minutes."
	$(RUN) -m pip install --quiet --editable '.[lce]'
	@touch $@

FOREIGN := tests/foreign/requirements.txt

$(VENV)/installed-dev: $(PACKAGING) $(FOREIGN) | $(RUN)
	@echo "Installing binmat, its dependencies and the test tools into $(VENV); the first time takes some minutes."
	$(RUN) -m pip install --quiet --editable '.[all]'
	$(RUN) -m pip install --quiet --no-deps --requirement $(FOREIGN)
	@touch $(VENV)/installed-lce $@

# Its dependencies differ from binmat's constraints.
$(LITERT)/installed: tests/foreign/litert-requirements.txt $(FOREIGN) | $(RUN)
	$(RUN) -m venv $(LITERT)
	PIP_CONSTRAINT= $(LITERT)/bin/python -m pip install --quiet --requirement $<
	PIP_CONSTRAINT= $(LITERT)/bin/python -m pip install --quiet --no-deps --requirement $(FOREIGN)
	@touch $@
