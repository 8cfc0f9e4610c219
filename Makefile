# `make up` runs everything, `make test` proves it. Both set up what they need; `make help` lists the rest.
.DEFAULT_GOAL := help
.PHONY: help up incident resolve test check bench-exporter bench-receiver secrets format lock venv clean

PYTEST_ARGS ?=
STATE ?= .run
# A slim baseline names no lines, so that moving one is no finding.
SCANNED = git ls-files -z -- ':!*.lock' ':!*.json' ':!*.png' ':!.secrets.baseline'

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: venv ## run the demo company, exporter, receiver, Prometheus, Alertmanager; Ctrl-C ends all (UP=--help: its flags)
	@deploy/setup.sh programs prometheus prometheus-alertmanager
	@exec .venv/bin/python -m deploy.demo.up --state $(STATE) $(UP)

incident: venv ## make a backlog of orders in the running demo, and say what to watch
	@.venv/bin/python -m deploy.demo.company incident --database $(STATE)/company.db

resolve: venv ## clear that backlog now
	@.venv/bin/python -m deploy.demo.company resolve --database $(STATE)/company.db

test: venv check ## everything that is tested, on the real programs
	@deploy/setup.sh programs prometheus promtool prometheus-alertmanager amtool postgres mariadbd openssl nginx \
	  curl systemd-analyze victoria-metrics
	@# root alone can start an engine of its own; DOCKER_TESTS=0 leaves it out
	@test $$(id -u) -ne 0 || test "$$DOCKER_TESTS" = 0 || deploy/setup.sh programs dockerd docker mmdebstrap nsenter ip
	@# twice as many at once as a small machine has cores, for they wait more than they work
	.venv/bin/python -m pytest -n 4 --dist loadfile $(PYTEST_ARGS)

check: venv ## formatting, lint, types, secrets in the source, known faults of the locked packages
	.venv/bin/ruff format --check --quiet
	.venv/bin/ruff check --quiet
	.venv/bin/mypy
	@# on a copy, for the hook rewrites it where one of its entries is gone (3), which is no finding (1)
	@copy=$$(mktemp) && cp .secrets.baseline $$copy && $(SCANNED) | xargs -0 sh -c \
	  '.venv/bin/detect-secrets-hook --baseline "$$0" "$$@" >"$$0.said" || test $$? -eq 3 || { cat "$$0.said"; exit 1; }' $$copy; \
	  code=$$?; rm -f $$copy $$copy.said; exit $$code
	@.venv/bin/python -m tests.audit

bench-exporter: venv ## the exporter against its peers, as a table, in twelve minutes (BENCH=--quick: three)
	@deploy/setup.sh programs postgres prometheus-node-exporter prometheus-sql-exporter wrk
	.venv/bin/python -m tests.benchmarks.exporter $(BENCH)

bench-receiver: venv ## the receiver against Alertmanager's own notifiers, as a table (BENCH=--quick: a minute or two)
	@deploy/setup.sh programs prometheus-alertmanager wrk
	.venv/bin/python -m tests.benchmarks.receiver $(BENCH)

format: venv ## format the source and mend what the linter can
	.venv/bin/ruff format --quiet
	.venv/bin/ruff check --fix --quiet

secrets: venv ## after a look at them: take what the secret scan finds now for harmless
	@$(SCANNED) | xargs -0 .venv/bin/detect-secrets scan --slim > .secrets.baseline

lock: ## resolve the ranges of pyproject.toml anew into the two lock files (needs uv)
	uv pip compile --quiet --universal --generate-hashes --no-emit-find-links --no-annotate --python-version 3.11 \
	  --custom-compile-command 'make lock' --upgrade --all-extras pyproject.toml -o requirements.lock
	uv pip compile --quiet --universal --generate-hashes --no-emit-find-links --no-annotate --python-version 3.11 \
	  --custom-compile-command 'make lock' --upgrade --all-extras --group demo --group test --group check --group dashboards \
	  -c requirements.lock pyproject.toml -o requirements-dev.lock

venv:
	@deploy/setup.sh venv

clean: ## remove what `make` has made
	rm -rf .venv .run .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
