# What CI runs, one line each; the README's two set-up lines make .venv.
BIN := .venv/bin
export OMP_NUM_THREADS := 1

.PHONY: test slow lint types layers bench

test:
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m 'not slow'

slow:
	$(BIN)/python -m pytest -q -m slow

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types:
	$(BIN)/mypy

layers:
	$(BIN)/lint-imports

bench:
	set -e; for script in benchmarks/*.py; do echo "$$script"; $(BIN)/python "$$script" --quick; done
