# Two commands: `make demo` and `make test`. Each sets up all it needs in .venv.
PYTHON ?= python3
BIN := .venv/bin
DEMO := models/demo
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export TOKENIZERS_PARALLELISM := true

.PHONY: demo test lint clean

demo: .venv/installed
	$(BIN)/loratory data fetch minilm
	$(BIN)/loratory data fetch hutto
	$(BIN)/loratory train --method standard --dataset hutto:movies --model minilm --epochs 2 --batch-size 32 --seed 0 --output $(DEMO)/standard
	$(BIN)/loratory train --method lora --dataset hutto:movies --model minilm --epochs 2 --batch-size 32 --seed 0 --output $(DEMO)/lora
	$(BIN)/loratory evaluate --model-path $(DEMO)/standard
	$(BIN)/loratory evaluate --model-path $(DEMO)/lora
	$(BIN)/loratory compare $(DEMO)/standard $(DEMO)/lora
	@echo "The runs are in $(DEMO)/standard and $(DEMO)/lora"

# Lint takes one core, and runs beside the tests. Three workers on two cores: some wait for processes of their own. A
# machine that writes no bytecode would compile the package in each of those.
test: .venv/installed-test
	$(BIN)/python -m compileall -q src
	@$(MAKE) --no-print-directory lint > .venv/lint.txt 2>&1 & lint=$$!; \
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist worksteal; tests=$$?; \
	wait $$lint || { cat .venv/lint.txt; exit 1; }; exit $$tests

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile -r requirements.txt
	touch $@

.venv/installed-test: requirements-test.txt requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile -r requirements-test.txt
	$(BIN)/python -m compileall -q -j 0 -x '/(tests|rllib|sympy/polys|mypyc?)/' .venv/lib > /dev/null || true  # for tests' own processes, which import none of those; some files are for other Pythons
	touch $@ .venv/installed

clean:
	rm -rf .venv
