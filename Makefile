# Every target sets itself up (scripts/setup), so a fresh clone needs nothing but `make`.
VENV := .venv/bin
export PATH := $(CURDIR)/$(VENV):$(PATH):/usr/sbin:/sbin
# What is run hundreds of times is compiled once, also where the environment says that Python is to write nothing.
unexport PYTHONDONTWRITEBYTECODE
PYTEST_ARGS ?=
# A directory for what each run of pytest says in JUnit's form, if that is wanted.
REPORTS ?=
REPORT = $(REPORTS:%=--junit-xml=%/$@.xml -o junit_family=xunit1)
# Files stay whole: their tests share what is set up once.
BY_FILE := --dist loadfile --no-loadscope-reorder
# Those that look after gateways wait half of the time.
WAITING := -n $(shell expr $$(nproc) + 1) $(BY_FILE)
# Those that need no root run in parts, and four more at a time than there are cores: first those that wait the longest, for
# time-outs, leases and processes that start, so that others have the cores meanwhile, and none is left alone at the end.
# Each imports only what it needs: what is small forks fast, and they fork thousands of times. `rest`: all that the
# others do not name. The controller's, which would be busy longest, are two: files by the alphabet.
IN_PARTS := $(MAKE) --no-print-directory --keep-going --output-sync -j $(shell expr $$(nproc) + 4)
PARTS := controller controller-n-z rest supervise keyd proto datapath
MEMORY := $(PARTS:%=memory-%)
IN_MEMORY := not netns and not long and not deb
EXAMPLES := --one-place-in 4 -m "$(IN_MEMORY)"
FEW_EXAMPLES := -q --hypothesis-profile check --one-place-in 32 -m "$(IN_MEMORY) and not slow"
ALL_EXAMPLES := --hypothesis-profile full -m "$(IN_MEMORY)"
FUZZ_S ?= 60
BENCH_ARGS ?=
TESTBED_ARGS ?=

.DEFAULT_GOAL := help
BENCHES := peers scale micro costs failover profile
.PHONY: help setup demo quickstart lint check test test-memory $(MEMORY) test-netns test-alone long interop ike-vectors testbed bench $(BENCHES:%=bench-%) bench-quick bench-report bench-pytest clean fuzz deb deb-test

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST) | expand -t 24

setup: ## make .venv, and install the Debian packages that are missing
	@scripts/setup

demo: setup ## two VPCs, four tunnels, load, a member killed half way (root)
	@fwd lab demo

quickstart: setup ## a controller, two clusters of three gateways, peered, traffic over all pairs; it stays up (root)
	@fwd lab quickstart

lint: setup ## ruff and mypy, of fwd and the tests
	@ruff check .
	@ruff format --check .
	@mypy --config-file tests/mypy.ini

check: setup ## lint, types, and all tests that need no root, with few examples each: before each commit
	@$(IN_PARTS) lint $(MEMORY) EXAMPLES='$(FEW_EXAMPLES)'

test: setup ## lint, types, and all tests but the long ones (root)
	@$(IN_PARTS) lint $(MEMORY)
	@$(MAKE) --no-print-directory test-netns test-alone

test-memory: setup ## all tests that need no root, on all cores
	@$(IN_PARTS) $(MEMORY)

$(MEMORY): OF = tests/$(@:memory-%=%)
memory-rest: OF = tests $(patsubst %,--ignore=tests/%,$(filter-out rest,$(PARTS)))
memory-controller: OF = tests/controller --ignore-glob='*/controller/test_[n-z]*'
memory-controller-n-z: OF = tests/controller --ignore-glob='*/controller/test_[!n-z]*'
$(MEMORY): setup
	@pytest $(OF) $(EXAMPLES) $(REPORT) $(PYTEST_ARGS) || [ $$? = 5 ] # no test of this part is asked for

test-netns: setup ## tests with real gateways in network namespaces, side by side (root)
	@pytest $(WAITING) -m "netns and not alone and not long and not deb" $(REPORT) $(PYTEST_ARGS)

test-alone: setup ## those of them that measure times or load, one at a time (root)
	@pytest -m "netns and alone and not long and not deb" $(REPORT) $(PYTEST_ARGS)

long: ## all examples of each property, all places at which something breaks; minutes of load: kills, soak; the demo on a fresh Debian (root)
	@scripts/setup mmdebstrap=mmdebstrap systemd-nspawn=systemd-container
	@$(IN_PARTS) $(MEMORY) EXAMPLES='$(ALL_EXAMPLES)'
	@pytest -m long $(PYTEST_ARGS)

fuzz: setup ## any octets to IKEv2 for FUZZ_S seconds, here 60; atheris has wheels for x86-64 alone
	@python -m pip install -q --disable-pip-version-check --require-hashes -r requirements-fuzz.lock
	@python tests/fuzz/fuzz.py $(FUZZ_S)

deb: ## a Debian package in dist/, with everything that it needs
	@scripts/setup dh=debhelper dpkg-buildpackage=dpkg-dev
	@packaging/build-deb

deb-test: deb ## install, run, upgrade and remove it in a container of Debian's packages (root)
	@scripts/setup mmdebstrap=mmdebstrap systemd-nspawn=systemd-container
	@pytest -m deb tests/packaging $(PYTEST_ARGS)

interop: setup ## fwd and strongSwan as each other's IPsec peers (root)
	@fwd lab interop

ike-vectors: setup ## record anew what tests/proto/ike replays: an exchange with strongSwan (root)
	@python tests/proto/ike/record_strongswan.py

testbed: setup ## docker/compose.yml, put through every scenario; wants a container engine (root)
	@fwd lab testbed $(TESTBED_ARGS)

bench: setup ## every part of the bench, plots, report, verdict; 55 minutes (root)
	@fwd bench $(BENCH_ARGS)

bench-peers: setup ## fwd beside OpenVPN, strongSwan and wireguard-go, in turns (root)
	@fwd bench peers $(BENCH_ARGS)

bench-scale: setup ## throughput by number of members: line-limited, core-limited (root)
	@fwd bench scale $(BENCH_ARGS)

bench-micro: setup ## steps of the data path, each beside its floor
	@fwd bench micro $(BENCH_ARGS)

bench-costs: setup ## what a record costs, and Gbit/s by cores on paper (root)
	@fwd bench costs $(BENCH_ARGS)

bench-failover: setup ## a member killed every second for a minute (root)
	@fwd bench failover $(BENCH_ARGS)

bench-profile: setup ## where a burst's time goes (root)
	@fwd bench profile $(BENCH_ARGS)

bench-quick: setup ## every part in 3 minutes, for schema and sanity, not for speed (root)
	@fwd bench --quick --out build/bench-quick $(BENCH_ARGS)

bench-report: setup ## plots and report anew, from the results that are there
	@fwd bench report $(BENCH_ARGS)

bench-pytest: setup ## what runs in memory, as pytest-benchmark runs
	@pytest bench/ --benchmark-only $(PYTEST_ARGS)

clean: ## remove .venv, build products and caches
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
