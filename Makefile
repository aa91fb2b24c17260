# Every target sets itself up first: .ci/setup does nothing when all is in place.
#   PORT=8000 make run      another port          PYTHON=python3.12 VENV=.venv-3.12 make test      another interpreter
#   make test ARGS="-k overflow -x"               arguments for pytest
#   EVENTFLOW_TEST_KAFKA=host:9092 make test       with a Kafka of yours; tests that stop it are left out

VENV ?= .venv
BIN := $(VENV)/bin
SETUP := VENV=$(VENV) .ci/setup
PYTEST := $(BIN)/python -m pytest
ARGS ?=
export VENV
# pytest keeps its rewritten modules as bytecode; without, each run would rewrite them again, for 1.5 s.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install fmt lint type test run demo stress cover docs examples bench bench-kafka bench-rabbitmq mutants clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## start the example service, say where to look; Ctrl-C stops it and prints the ledger
	@$(SETUP)
	@exec $(BIN)/python -m examples.github_webhooks

demo: ## the same, feeding itself traffic and ending by itself
	@$(SETUP)
	@exec $(BIN)/python -m examples.github_webhooks --demo

test: ## the whole test suite
	@$(SETUP)
	@.ci/debian
	@$(PYTEST) $(ARGS)

install: ## set everything up and run nothing
	@$(SETUP) checks
	@.ci/debian

fmt: ## format, and fix what ruff can fix
	@$(SETUP) checks
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

lint: ## ruff: rules and format
	@$(SETUP) checks
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

type: ## mypy --strict, then pyright in strict mode
	@$(SETUP) checks
	@$(BIN)/mypy
	@$(BIN)/pyright --pythonpath $(BIN)/python

docs: ## build the site into .cache/site; a warning is an error
	@$(SETUP) checks
	@mkdir -p .cache
	@# Not --quiet: with it mkdocs counts no warnings, and --strict lets everything pass.
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --config-file .mkdocs.yml >.cache/docs.log 2>&1 || { cat .cache/docs.log; exit 1; }
	@$(BIN)/towncrier build --draft --version next >.cache/changelog.md 2>&1 || { cat .cache/changelog.md; exit 1; }
	@echo "docs: .cache/site/index.html"

examples: ## run README.md, every page under docs/ and every example
	@$(SETUP)
	@$(PYTEST) tests/docs $(wildcard tests/examples) $(ARGS)

stress: ## the tests that repeat a race many times, with their full counts
	@$(SETUP)
	@EVENTFLOW_STRESS=1 $(PYTEST) -m "stress or slow" $(ARGS)

cover: ## branch coverage of eventflow/, which has to reach 95 %
	@$(SETUP)
	@rm -rf .cache/coverage && mkdir -p .cache/coverage
	@# A signal in a process's first half second can leave that in a lock of the tracer's: its tests run without one.
	@$(BIN)/coverage run -m pytest --deselect tests/fault/service/test_random_shutdowns.py $(ARGS)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage html --quiet
	@$(BIN)/coverage report
	@$(BIN)/coverage json --quiet -o - | $(BIN)/python .ci/branches 95

bench: ## measure, beside asyncio.Queue and other libraries
	@$(SETUP) bench
	@$(BIN)/python -m tests.bench $(ARGS)

bench-kafka: ## measure the Kafka backend, on a Kafka of its own, beside raw loops and other libraries
	@$(SETUP) bench
	@$(BIN)/python -m tests.bench.kafka $(ARGS)

bench-rabbitmq: ## measure the RabbitMQ backend, on a RabbitMQ of its own, beside aio-pika and other libraries
	@$(SETUP) bench
	@$(BIN)/python -m tests.bench.rabbitmq $(ARGS)

mutants: ## plant faults in eventflow/; each has to be noticed by a test
	@$(SETUP)
	@$(BIN)/python -m tests.mutants $(ARGS)

clean: ## remove what was built or cached, not the environment
	@rm -rf .cache .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find eventflow tests examples -name __pycache__ -prune -exec rm -rf {} +
