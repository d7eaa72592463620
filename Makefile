# One-line verbs. PYTHON=python3.12 chooses the interpreter, ARGS="..." passes arguments on.
PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
EXTRAS := train,serving,sqlite,record,box2d,postgres,s3,bench,dev
# Who only serves needs no torch: an environment of its own, unless the whole one is there already.
SERVING := $(if $(wildcard .venv/.installed),.venv,.venv-serving)

.DEFAULT_GOAL := help
.PHONY: help install train sweep serve watch record secrets up down destroy backup restore stack lint types test test-stack bench constraints clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: .venv/.installed ## set up .venv (every other verb does it when needed)

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

.venv-serving/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-serving
	.venv-serving/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[serving,sqlite]'
	@touch $@

train: .venv/.installed ## train, register and promote a champion; ARGS="--help" shows every option
	$(BIN)/python -m flows.train $(ARGS)

sweep: .venv/.installed ## search hyper-parameters, a thousand configurations in minutes; ARGS="--help" shows every option
	$(BIN)/python -m flows.sweep $(ARGS)

serve: $(SERVING)/.installed ## play the champion in the browser, http://127.0.0.1:8000
	$(SERVING)/bin/python -m serving $(ARGS)

watch: $(SERVING)/.installed ## play the champion in Gymnasium's own window
	$(SERVING)/bin/python -m serving watch $(ARGS)

record: $(SERVING)/.installed ## write a video of the champion
	$(SERVING)/bin/python -m serving record $(ARGS)

secrets: ## write docker/.env with fresh random secrets, once
	$(PYTHON) docker/stack.py secrets

up: ## build and start the whole system in containers, and wait until it is healthy
	$(PYTHON) docker/stack.py up $(ARGS)

down: ## stop the containers; the data stays
	$(PYTHON) docker/stack.py down $(ARGS)

destroy: ## stop the containers and, having asked, delete their data
	$(PYTHON) docker/stack.py destroy $(ARGS)

backup: ## write databases and artifacts of the containers into one file, backups/dqn-TIME.tar
	$(PYTHON) docker/backup.py backup

restore: ## having asked, replace them by those of a backup: FILE=backups/dqn-TIME.tar
	$(PYTHON) docker/backup.py restore "$(FILE)" $(ARGS)

stack: .venv/.installed ## the same system without containers, as plain processes; Ctrl-C stops it
	$(BIN)/python docker/processes.py $(ARGS)

lint: .venv/.installed ## ruff, formatting, import contracts
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports

types: .venv/.installed ## mypy, strict
	$(BIN)/mypy

test: lint types ## lint, types and every test that needs no Docker engine
	$(BIN)/pytest -m "not stack" --numprocesses auto --dist loadgroup $(ARGS)

test-stack: .venv/.installed ## the containers, from building to a killed worker (needs a Docker engine)
	$(BIN)/pytest -m stack $(ARGS)

bench: .venv/.installed ## this project, Stable-Baselines3 and the article in one table; ARGS="--quick" for two minutes
	$(BIN)/python -m benchmarks $(ARGS)

constraints: ## regenerate constraints.txt from pyproject.toml in a fresh environment
	rm -rf build/constraints && $(PYTHON) -m venv build/constraints
	build/constraints/bin/pip install --quiet '.[$(EXTRAS)]' && build/constraints/bin/pip freeze --exclude dqn-pipeline | sed 's/+cpu$$//' > constraints.txt

clean: ## remove environments and caches; runs, models and checkpoints stay
	rm -rf .venv .venv-serving build .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
