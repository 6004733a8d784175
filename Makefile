# The commands of this repository. Each one installs or builds what it needs and says so; `make help` lists them.
SECONDS ?= 60
SEED    ?= 1
ONLY    ?=
SKIP    ?=
QUICK   ?=

# Scripts, never recipes of more than two lines: they can be run and read on their own.
S := tests/scripts

.DEFAULT_GOAL := help
.PHONY: demo test bench chaos build wheel dist lint clean help

demo: ## A killed checkout, then workers in four languages under random kills on real files. No database needed
	@$(S)/setup.sh python node java go
	@$(S)/demo.sh $(DEMO_ARGS)

test: ## Every test, lint and a 60 s chaos run (ONLY=scenarios: a part, SKIP=faults: all but that). Last line: N passed, N failed, N skipped
	@$(S)/setup.sh python postgres node java go
	@.venv/bin/python $(S)/check.py --only "$(ONLY)" --skip "$(SKIP)"

bench: ## Everstep, DBOS and bare PostgreSQL side by side (ONLY=python, QUICK=1); writes target/bench.json
	@$(S)/setup.sh python postgres node java go
	@ONLY="$(ONLY)" QUICK="$(QUICK)" $(S)/bench.sh

chaos: ## Kills, stops and restarts under load, then the audit (SECONDS=60 SEED=1)
	@$(S)/setup.sh python postgres node java go
	@.venv/bin/python $(S)/check.py chaos --seconds $(SECONDS) --seed $(SEED)

build: ## The workspace, release profile
	@$(S)/setup.sh
	@cargo build --release --workspace --locked

wheel: ## The Python wheel, built and installed into .venv
	@$(S)/setup.sh python
	@$(S)/wheel.sh

dist: ## The packages as they are published: target/wheels, target/node, target/java/repository, target/go/proxy
	@$(S)/setup.sh python node java go
	@$(S)/wheel.sh && $(S)/node.sh && $(S)/java.sh && $(S)/go.sh dist

lint: ## Formatting, lints, types, generated tables
	@$(S)/setup.sh python
	@.venv/bin/python $(S)/check.py lint

clean: ## Everything the commands above have made
	rm -rf target .venv .venv-suite bindings-node/node_modules bindings-node/build bindings-node/dist bindings-go/lib/*/*.a bindings-go/linktest/*.a

help:
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-7s %s\n", $$1, $$2 }' Makefile
