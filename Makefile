# Two environments, both made from plain Python by `make setup`, and by whatever target needs them:
#   .venv            serving, the demo and the tools; no torch, on purpose
#   .venv-training   the same plus torch
# Versions are pinned in requirements/*.txt; `make lock` writes those anew from pyproject.toml.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
UV_VERSION := 0.13.9
# A smaller torch where the machine has no GPU: make setup TORCH_BACKEND=cpu
TORCH_BACKEND ?=
PYTEST_ARGS ?=
# Trust what the machine trusts, as pip does: many networks have a certificate authority of their own.
export UV_SYSTEM_CERTS ?= $(if $(wildcard /etc/ssl/certs/*.crt /etc/pki/tls/certs/*.crt),true,false)

# The demo counts its seconds from the command, the making of the environment included.
STARTED := $(shell date +%s)

SERVING := .venv
TRAINING := .venv-training
UV := $(SERVING)/bin/uv
INSTALL := $(UV) pip install --quiet
# Compiling once takes some seconds; at each start it takes half of a worker's, where nobody may write it
# down (PYTHONDONTWRITEBYTECODE, a read-only installation).
COMPILED := --compile-bytecode
# Tests that need torch: the offline packages', and whatever else is marked so.
TORCH_TESTS := tests/models tests/export \
	$(shell grep -rl 'pytest.mark.torch' tests --include='test_*.py' --exclude-dir=models --exclude-dir=export)
SOURCES := stream_app models export deploy tests

##@ Try it

.PHONY: demo
demo: $(SERVING)/.serving ## The whole system on this machine.  SECONDS=420 ends it by itself; REPORT=FILE writes figures; DATA=FILE streams a real log
	$(SERVING)/bin/nextclick demo --started-at $(STARTED) \
		$(if $(SECONDS),--seconds "$(SECONDS)") \
		$(if $(REPORT),--report "$(REPORT)") \
		$(if $(DATA),--data "$(DATA)") $(ARGS)

.PHONY: retrain
retrain: $(TRAINING)/.training ## Train one model from the click log and publish it if it is better.  ARGS="--every 15m" repeats
	$(TRAINING)/bin/nextclick retrain $(or $(ARGS),--once)

##@ Develop

.PHONY: setup
setup: $(SERVING)/.dev $(TRAINING)/.dev ## Both environments with everything development needs (a second run takes no time)

.PHONY: check
check: lint types imports spelling docs-check ## The static part: ruff, mypy --strict, import contracts, spelling, links of the documentation

.PHONY: test
test: $(SERVING)/.dev $(TRAINING)/.dev ## Every test, a real Kafka included.  PYTEST_ARGS="-k session" picks some
	@mkdir -p build
	@status=0; \
	failed() { [ $$1 = 5 ] && [ -n '$(PYTEST_ARGS)' ] || status=1; }; `# 5: nothing was picked here` \
	echo "== serving, without torch ($(SERVING))"; \
	$(SERVING)/bin/python -m pytest $(addprefix --ignore=,$(TORCH_TESTS) tests/browser) $(PYTEST_ARGS) \
		2>&1 | tee build/test-serving.log || failed $$?; \
	echo "== the page in a browser, whose event loop no other test can live beside"; \
	$(SERVING)/bin/python -m pytest tests/browser $(PYTEST_ARGS) \
		2>&1 | tee build/test-browser.log || failed $$?; \
	echo "== training and export, with torch ($(TRAINING))"; \
	$(TRAINING)/bin/python -m pytest $(TORCH_TESTS) $(PYTEST_ARGS) \
		2>&1 | tee build/test-training.log || failed $$?; \
	echo "== serving, then training and export:"; \
	tail -n 1 build/test-serving.log; \
	tail -n 1 build/test-browser.log; \
	tail -n 1 build/test-training.log; \
	exit $$status

.PHONY: bench
bench: $(SERVING)/.dev ## What one worker does on this machine, and what limits it.  Writes build/bench.json.  ARGS="--only backlog" picks
	@mkdir -p build
	OMP_NUM_THREADS=1 $(SERVING)/bin/python -m tests.benchmarks $(ARGS)

.PHONY: quality
quality: $(SERVING)/.dev $(TRAINING)/.training ## Tuned baselines and trained models on the public logs in ../shared/data.  Writes build/quality.json.  ARGS="--train none" (--help: what costs how long)
	@mkdir -p build
	OMP_NUM_THREADS=1 $(SERVING)/bin/python -m tests.quality $(ARGS)

.PHONY: chaos
chaos: $(SERVING)/.dev ## Real faults on a real broker: what is lost, doubled, and how long it takes.  Writes build/chaos.json.  ARGS="--rows kills --short" picks
	@mkdir -p build
	$(SERVING)/bin/python -m tests.chaos $(ARGS)

.PHONY: compose-check
compose-check: $(SERVING)/.dev ## docker-compose.yml brought up for real, killed and measured, as root on Debian 12.  Writes build/compose.json.  ARGS="--only tls" picks
	$(SERVING)/bin/python -m deploy.compose.check $(ARGS)

.PHONY: alerts-check
alerts-check: $(SERVING)/.dev $(TRAINING)/.training ## See every alert fire for real, and none in quiet minutes.  Writes build/alerts.json.  ARGS="--quiet-minutes 30"
	@mkdir -p build
	$(SERVING)/bin/python -m tests.deploy.alerts_check $(ARGS)

.PHONY: dashboards-check
dashboards-check: $(SERVING)/.dev $(TRAINING)/.training ## Fill every panel by a real run, and draw them with Grafana's components.  Writes build/dashboards.json.  ARGS="--no-run" draws the last run
	@mkdir -p build
	$(SERVING)/bin/python -m tests.deploy.dashboards_check $(ARGS)

.PHONY: kubernetes-check
kubernetes-check: $(SERVING)/.dev ## Every overlay of deploy/kubernetes through a real API server.  Needs Go; builds it the first time (40 minutes on two busy cores)
	$(SERVING)/bin/python -m deploy.kubernetes.check $(ARGS)

.PHONY: pictures
pictures: $(SERVING)/.dev $(TRAINING)/.training ## Run a demo, photograph every page into docs/pictures, and time 200 clicks.  Needs Chromium; ARGS="--origin URL" takes a gateway that runs
	$(SERVING)/bin/python -m tests.browser.pictures $(ARGS)

.PHONY: format
format: $(SERVING)/.dev ## Put every file into the shape that `make check` wants
	$(SERVING)/bin/ruff check --fix --exit-zero --quiet $(SOURCES)
	$(SERVING)/bin/ruff format $(SOURCES)

##@ Parts of the above

.PHONY: lint
lint: $(SERVING)/.dev ## ruff: rules and format
	$(SERVING)/bin/ruff check $(SOURCES)
	$(SERVING)/bin/ruff format --check $(SOURCES)

.PHONY: types
types: $(SERVING)/.dev $(TRAINING)/.dev ## mypy --strict: stream_app and deploy where torch is absent, models and export where it is present
	$(SERVING)/bin/mypy -p stream_app -p deploy
	$(TRAINING)/bin/mypy --cache-dir .mypy_cache/training -p models -p export

.PHONY: imports
imports: $(SERVING)/.dev ## import-linter: who may import whom (the contracts are in pyproject.toml)
	$(SERVING)/bin/lint-imports --no-logo

.PHONY: spelling
spelling: $(SERVING)/.dev ## codespell over code and prose
	$(SERVING)/bin/codespell

.PHONY: docs
docs: $(SERVING)/.dev ## The documentation as pages, in build/docs: open build/docs/index.html, or serve it to have the search
	NO_MKDOCS_2_WARNING=1 $(SERVING)/bin/mkdocs build --quiet
	@echo "build/docs/index.html; with search: $(SERVING)/bin/python -m http.server --directory build/docs"

.PHONY: docs-check
docs-check: docs ## The same, and whether every link in it leads somewhere
	$(SERVING)/bin/python -m tests.site_links build/docs

.PHONY: kubernetes-render
kubernetes-render: $(SERVING)/.dev ## Write anew what the overlays come to, and the alerts as a PrometheusRule.  Needs kustomize or kubectl
	$(SERVING)/bin/python -m deploy.kubernetes.render

.PHONY: serving-env
serving-env: $(SERVING)/.serving ## The light environment: worker, archive, statistics, demo

.PHONY: training-env
training-env: $(TRAINING)/.training ## The environment with torch: train, export, retrain

.PHONY: lock
lock: $(SERVING)/.uv ## Pin what pyproject.toml asks for (requirements/*.txt).  UPGRADE=--upgrade takes newer versions
	bash requirements/lock.sh $(UV) $(UPGRADE)

.PHONY: clean
clean: ## Remove caches and build outputs; environments, models and click logs stay
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: clean-all
clean-all: clean ## The same, and the two environments
	rm -rf $(SERVING) $(TRAINING) *.egg-info

.PHONY: help
help: ## This text
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# A stamp stands for a finished installation: it is written last, and is out of date when the pins are
# newer.  Each builds on the one before it.

$(SERVING)/.uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "nextclick needs Python 3.11 or newer; '$(PYTHON)' is not.  Name another: make PYTHON=python3.12 ..." >&2; \
		exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "This Python cannot make environments.  On Debian and Ubuntu: apt-get install python3-venv" >&2; \
		exit 2; }
	@echo "Making $(SERVING) ..."
	@$(PYTHON) -m venv $(SERVING)
	@$(SERVING)/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@touch $@

$(SERVING)/.serving: $(SERVING)/.uv requirements/serving.txt pyproject.toml
	@$(INSTALL) $(COMPILED) --python $(SERVING)/bin/python -r requirements/serving.txt
	@$(INSTALL) --python $(SERVING)/bin/python --no-deps -e .
	@touch $@

$(SERVING)/.dev: $(SERVING)/.serving requirements/dev.txt
	@$(INSTALL) $(COMPILED) --python $(SERVING)/bin/python -r requirements/dev.txt
	@touch $@

$(TRAINING)/.training: $(SERVING)/.uv requirements/training.txt pyproject.toml
	@echo "Making $(TRAINING) with torch (the first time this takes a while) ..."
	@test -x $(TRAINING)/bin/python || $(UV) venv --quiet --python $(SERVING)/bin/python $(TRAINING)
	@$(INSTALL) --python $(TRAINING)/bin/python $(if $(TORCH_BACKEND),--torch-backend=$(TORCH_BACKEND)) \
		-r requirements/training.txt
	@$(INSTALL) --python $(TRAINING)/bin/python --no-deps -e .
	@touch $@

$(TRAINING)/.dev: $(TRAINING)/.training requirements/dev.txt
	@$(INSTALL) --python $(TRAINING)/bin/python -r requirements/dev.txt
	@touch $@
