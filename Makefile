# Every target sets itself up (scripts/setup), so a fresh clone needs nothing but `make`.
VENV := .venv/bin
export PATH := $(CURDIR)/$(VENV):$(PATH):/usr/sbin:/sbin
PYTEST_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo lint test long bench compare clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST) | expand -t 16

setup: ## make .venv, and install the Debian packages that are missing
	@scripts/setup

demo: setup ## two VPCs, four tunnels, load, a member killed half way (root)
	@fwd lab demo

lint: setup ## ruff and mypy
	@ruff check .
	@ruff format --check .
	@mypy

test: lint ## lint, types, unit and namespace tests; the latter need root
	@pytest -m "not long" $(PYTEST_ARGS)

long: setup ## minutes of load: kills, soak (root)
	@pytest -m long $(PYTEST_ARGS)

bench: setup ## benchmarks of the data path, in memory
	@pytest bench/ --benchmark-only $(PYTEST_ARGS)

compare: setup ## fwd beside OpenVPN in the lab, in turns (root)
	@python bench/openvpn.py

clean: ## remove .venv, build products and caches
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
