# One-line verbs. PYTHON=python3.12 chooses the interpreter, TORCH=cpu a build of torch without CUDA, ARGS="..." passes
# arguments on.
PYTHON ?= python3
TORCH ?=
ARGS ?=
BIN := .venv/bin
# Bytecode is written where it is first run: a third of the time and 0.3 GB less. Tests start too many processes for that,
# and with PYTHONDONTWRITEBYTECODE every start would compile for six seconds.
PIP = $(BIN)/python -m pip install $(if $(filter all,$*)$(PYTHONDONTWRITEBYTECODE),,--no-compile) --disable-pip-version-check -c constraints.txt
CPU_INDEX := https://download.pytorch.org/whl/cpu

# A verb installs what it needs and no more: a set of extras of pyproject.toml. The file .venv/.SET says that it is there.
train := train
serving := serving,sqlite
record := serving,sqlite,record
ui := train,server
stack := train,serving,sqlite,record,server
bench := train,bench
site := train,site
all := train,serving,sqlite,record,server,site,dev
size_train := 150 packages, 1.3 GB, 1 to 4 minutes
size_serving := 60 packages, 0.3 GB, half a minute
size_record := 65 packages, 0.4 GB, half a minute
size_ui := 170 packages, 1.7 GB, 2 to 4 minutes
size_stack := 190 packages, 2 GB, 2 to 5 minutes
size_bench := 160 packages, 1.4 GB, 2 to 4 minutes
size_site := 150 packages, 1.3 GB, 1 to 4 minutes
size_all := 240 packages, 2.2 GB, 2 to 6 minutes
needs = .venv/.$(if $(wildcard .venv/.all),all,$(1))

.DEFAULT_GOAL := help
.PHONY: help install train sweep bank versions compare promote rollback retire ui serve watch record site secrets up down destroy backup restore stack lint types test test-all test-stack bench constraints clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: .venv/.all ## set up .venv for every verb and the tests (a verb alone installs what it needs)

.venv/.%: pyproject.toml constraints.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11) and "This is Python %d.%d, and 3.11 to 3.13 is needed: choose one, make $(MAKECMDGOALS) PYTHON=python3.12" % sys.version_info[:2])'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear .venv
	@echo "Installing into .venv, once: $(size_$*)"
	$(if $(findstring train,$($*)),$(TORCH_FIRST))
	@$(PIP) -e '.[$($*)]'
	@touch $@

# With its own index, so that no other package is looked for there.
ifeq ($(TORCH),cpu)
TORCH_FIRST = @$(PIP) torch --index-url $(CPU_INDEX)
else
TORCH_FIRST = @$(BIN)/python -c 'import sys, glob; sys.platform == "linux" and not glob.glob("/dev/nvidia*") and print("There is no NVIDIA GPU: TORCH=cpu saves some 4 GB of CUDA libraries.")'
endif

train: $(call needs,train) ## train, register and promote a champion; ARGS="--help" shows every option
	$(BIN)/python -m flows train $(ARGS)

sweep: $(call needs,train) ## search hyper-parameters, a thousand configurations in minutes; ARGS="--help" shows every option
	$(BIN)/python -m flows sweep $(ARGS)

bank: $(call needs,train) ## give the champion members for worlds that it does not balance; ARGS="--help" shows every option
	$(BIN)/python -m flows bank $(ARGS)

versions: $(call needs,train) ## list the registered versions
	$(BIN)/python -m flows versions $(ARGS)

compare: $(call needs,train) ## play two versions on the same unseen episodes: ARGS="3 champion"
	$(BIN)/python -m flows compare $(ARGS)

promote: $(call needs,train) ## make a version champion if it passes the gate: ARGS="3", ARGS="3 --dry-run"
	$(BIN)/python -m flows promote $(ARGS)

rollback: $(call needs,train) ## return to the champion before; once more goes one further back
	$(BIN)/python -m flows rollback $(ARGS)

retire: $(call needs,train) ## take a version out of use: ARGS="2"
	$(BIN)/python -m flows retire $(ARGS)

ui: $(call needs,ui) ## MLflow's pages of runs and versions, http://127.0.0.1:5000
	$(BIN)/mlflow ui $(ARGS)

serve: $(call needs,serving) ## play the champion in the browser, http://127.0.0.1:8000
	$(BIN)/python -m serving $(ARGS)

watch: $(call needs,serving) ## play the champion in Gymnasium's own window
	$(BIN)/python -m serving watch $(ARGS)

record: $(call needs,record) ## write a video of the champion
	$(BIN)/python -m serving record $(ARGS)

site: $(call needs,site) ## write build/site: agents that learn in the browser, a champion to push, the documents
	$(BIN)/python docs/site/make_site.py $(ARGS)

secrets: ## write docker/.env with fresh random secrets, once
	"$(PYTHON)" docker/stack.py secrets

up: ## build and start the whole system in containers, and wait until it is healthy
	"$(PYTHON)" docker/stack.py up $(ARGS)

down: ## stop the containers; the data stays
	"$(PYTHON)" docker/stack.py down $(ARGS)

destroy: ## stop the containers and, having asked, delete their data
	"$(PYTHON)" docker/stack.py destroy $(ARGS)

backup: ## write databases and artifacts of the containers into one file, backups/dqn-TIME.tar
	"$(PYTHON)" docker/backup.py backup

restore: ## having asked, replace them by those of a backup: FILE=backups/dqn-TIME.tar
	"$(PYTHON)" docker/backup.py restore "$(FILE)" $(ARGS)

stack: $(call needs,stack) ## the same system without containers, as plain processes; Ctrl-C stops it
	$(BIN)/python docker/processes.py $(ARGS)

lint: .venv/.all ## ruff, formatting, import contracts
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports

types: .venv/.all ## mypy, strict
	$(BIN)/mypy

PYTEST := $(BIN)/pytest --numprocesses auto --dist loadgroup

test: lint types ## lint, types and the quick tests, in two minutes
	$(PYTEST) -m "not slow and not stack" $(ARGS)

test-all: test ## the same, and then the tests that start servers, browsers and whole trainings
	$(PYTEST) -m "slow and not stack" $(ARGS)

test-stack: .venv/.all ## the containers, from building to a killed worker (needs a Docker engine)
	$(BIN)/pytest -m stack $(ARGS)

bench: .venv/.bench ## this project, Stable-Baselines3 and the article in one table; ARGS="--quick" for two minutes
	$(BIN)/python -m benchmarks $(ARGS)

constraints: ## regenerate constraints.txt from pyproject.toml in a fresh environment
	rm -rf build/constraints && "$(PYTHON)" -m venv build/constraints
	build/constraints/bin/pip install --quiet '.[$(all),bench,postgres,s3]' && build/constraints/bin/pip freeze --exclude dqn-pipeline | sed 's/+cpu$$//' > constraints.txt

clean: ## remove environments and caches; runs, models and checkpoints stay
	rm -rf .venv build .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
