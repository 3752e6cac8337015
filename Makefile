# Polybolos. The two commands are `make up` and `make test`; `make help` lists the rest.
SHELL := /bin/bash
.DEFAULT_GOAL := help

# In CI the clone is new every time, so the build cache lies outside of it.
CACHE := $(HOME)/.cache/polybolos
ifdef CI
export CARGO_TARGET_DIR := $(CACHE)/target
# Nor is there anything to build upon: what would be noted for the next build takes time and 10 GB.
export CARGO_INCREMENTAL := 0
endif
TARGET := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
POLYBOLOS := $(TARGET)/debug/polybolos
VENV := $(CACHE)/venv
DENY_VERSION := 0.20.2
DENY_ROOT := $(CACHE)/cargo-deny/$(DENY_VERSION)
DENY := $(DENY_ROOT)/bin/cargo-deny

BUILD_PACKAGES := gcc g++ make perl pkg-config mold libssl-dev zlib1g-dev
TEST_PACKAGES := chromium chromium-driver postgresql-client python3-venv fonts-noto-core strace
SERVER_PACKAGES := openjdk-17-jre-headless maven
SERVERS := $(TARGET)/debug/polybolos-local-servers
S3_SERVER := $(VENV)/bin/python tests/python/s3_server.py
NOTEBOOK_VENV := $(CACHE)/notebook-venv
BENCH_VENV := $(CACHE)/bench-venv
SPARK_VENV := $(CACHE)/spark-venv
SPARK_JARS := $(CACHE)/spark-jars
FLINK_VENV := $(CACHE)/flink-venv
FLINK_JARS := $(CACHE)/flink-jars

# Clippy's driver compiles and lints in one pass: our crates are linted while their tests are built, and no dependency is checked twice.
LINT := RUSTC_WORKSPACE_WRAPPER=$$(rustup which clippy-driver) CLIPPY_ARGS="-Dwarnings__CLIPPY_HACKERY__"

# The tests' binaries are built with the lints too: cargo then compiles our crates once for both.
test: WRAPPED := $(LINT)

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*?## ' $(MAKEFILE_LIST) | awk 'BEGIN {FS = ":.*?## "} {printf "  make %-16s %s\n", $$1, $$2}'

.PHONY: up
up: setup build ## Build, and start the whole platform in one process (ARGS="…" passes flags)
	@exec $(POLYBOLOS) up $(ARGS)

# The launcher names its servers for tests; a cluster knows them by the names of its configuration.
NAMED := sh -c 'exec env POLYBOLOS_KAFKA_BOOTSTRAP_SERVERS=$$POLYBOLOS_TEST_KAFKA POLYBOLOS_CASSANDRA_CONTACT_POINTS=$$POLYBOLOS_TEST_CASSANDRA "$$@"' sh

.PHONY: cluster
cluster: setup setup-servers build ## A cluster of processes on this machine with a real Kafka and Cassandra (ARGS="…" passes flags)
	@exec $(SERVERS) --data-dir .polybolos-servers -- $(NAMED) $(POLYBOLOS) cluster $(ARGS)

.PHONY: test
test: trim setup setup-test fmt-check deny build unit end-to-end ## Everything: formatting, lints, unit, property, real-client and browser tests

# Seeds are printed; one that goes wrong is repeated alone, as the output says.
.PHONY: soak
soak: setup setup-test build $(VENV)/ready ## The long runs: the law with 5 000 seeds, 200 of them through Ballista, the simulation, 200 kills
	POLYBOLOS_LAW_CASES=$(or $(LAW_CASES),5000) POLYBOLOS_LAW_SEED=$(or $(SEED),1) cargo test --locked -p polybolos-dataflow --test law -- --nocapture
	POLYBOLOS=$(POLYBOLOS) POLYBOLOS_LAW_PLATFORM_CASES=$(or $(PLATFORM_CASES),200) POLYBOLOS_LAW_PLATFORM_SEED=$(or $(SEED),1) $(SERVERS) -- $(VENV)/bin/python -m pytest -q -s tests/python/test_law.py
	cargo test --locked -p polybolos-streaming --test simulation -- --nocapture
	POLYBOLOS=$(POLYBOLOS) POLYBOLOS_KILLS=$(or $(KILLS),200) POLYBOLOS_KILL_SEED=$(or $(SEED),20261125) $(SERVERS) -- $(VENV)/bin/python -m pytest -q -s tests/python/test_crash_points.py tests/python/test_cluster.py tests/python/test_stateful.py tests/python/test_exactly_once.py

# Every clone leaves its builds in CI's cache. When it has grown past what a small disk has, our own crates are compiled anew; dependencies stay.
.PHONY: trim
trim:
ifdef CI
	@if [ "$$(du -sm $(TARGET)/debug 2> /dev/null | cut -f1)0" -gt 400000 ]; then \
	  echo "the build cache has more than 40 GB: what our crates left in it is deleted"; \
	  rm -rf $(TARGET)/debug/incremental; \
	  find $(TARGET)/debug/deps -type f \( -name '*polybolos*' -o -name '*.dwo' -o -executable ! -name '*.so' \) -delete; \
	fi
endif

.PHONY: build
build: ## Build the binaries
	$(WRAPPED) cargo build --locked --workspace --bins

.PHONY: fmt
fmt: ## Format the code
	cargo fmt --all

.PHONY: fmt-check
fmt-check:
	cargo fmt --all --check

# The database of advisories is not asked: the tests need the registries only, and what they say must not change by the day.
.PHONY: deny
deny: $(DENY) ## Check licences, sources and doubled versions of the dependencies
	$(DENY) --locked check bans licenses sources

# Its own profile is for a release: one unit, fat LTO. That takes minutes, and it runs for seconds.
DENY_PROFILE := CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16

$(DENY):
	$(DENY_PROFILE) CARGO_TARGET_DIR=$(CACHE)/cargo-deny-build cargo install --quiet --locked --root $(DENY_ROOT) cargo-deny --version $(DENY_VERSION)
	rm -rf $(CACHE)/cargo-deny-build

.PHONY: unit
unit: build $(VENV)/ready ## Lint our crates, and run their unit and property tests and those against a real Kafka, Cassandra and S3 server
	$(LINT) cargo test --locked --workspace --lib --bins --tests --no-run
	$(SERVERS) -- $(S3_SERVER) -- env $(LINT) cargo test --locked --workspace --lib --bins --tests --no-fail-fast
	$(LINT) cargo test --locked --workspace --doc

TESTS := tests/python
# They mostly wait for something to happen; the tests of one file go one after another.
TEST_WORKERS := 2

.PHONY: end-to-end
end-to-end: build $(VENV)/ready ## Test the running platform with real clients, a browser, and kills (TESTS="…": some of them)
	POLYBOLOS=$(POLYBOLOS) $(SERVERS) -- env $(LINT) $(VENV)/bin/python -m pytest -q -n $(TEST_WORKERS) --dist loadfile $(TESTS)

.PHONY: notebooks
notebooks: $(NOTEBOOK_VENV)/ready ## Open the notebooks beside a running platform (ARGS="…" passes flags to JupyterLab)
	$(NOTEBOOK_VENV)/bin/jupyter lab --notebook-dir notebooks $(ARGS)

.PHONY: screenshot
screenshot: setup setup-test build $(VENV)/ready ## Make the README's picture again
	POLYBOLOS=$(POLYBOLOS) $(VENV)/bin/python scripts/screenshot.py

.PHONY: setup
setup:
	@scripts/apt.sh $(BUILD_PACKAGES)

.PHONY: setup-test
setup-test: setup-servers
	@scripts/apt.sh $(TEST_PACKAGES)

.PHONY: setup-servers
setup-servers:
	@command -v java >/dev/null && command -v mvn >/dev/null || scripts/apt.sh $(SERVER_PACKAGES)

$(NOTEBOOK_VENV)/ready: notebooks/requirements.txt
	@scripts/apt.sh python3-venv
	@echo "setting up JupyterLab in $(@D)"
	python3 -m venv $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check -r $<
	touch $@

$(VENV)/ready: tests/python/requirements.txt
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r tests/python/requirements.txt
	touch $@

# The benchmarks: each prints a table and writes target/bench/<name>.json. (ARGS="…" passes flags).
BENCH := POLYBOLOS=$(POLYBOLOS) CARGO_TARGET_DIR=$(TARGET) $(BENCH_VENV)/bin/python bench

.PHONY: bench-users
bench-users: build setup-servers $(BENCH_VENV)/ready $(SPARK_VENV)/ready $(SPARK_JARS)/ready ## Users into Cassandra, beside Spark Structured Streaming
	$(SERVERS) -- env $(BENCH)/users.py $(ARGS)

.PHONY: bench-flame
bench-flame: build setup-servers $(BENCH_VENV)/ready ## Where the CPU time of users into Cassandra, or of a Nexmark query, goes, as a flame graph
	cargo build --locked -p polybolos-kafka --example nexmark
	$(SERVERS) -- env $(BENCH)/flame.py $(ARGS)

.PHONY: bench-latency
bench-latency: build setup-servers $(BENCH_VENV)/ready ## Milliseconds from produced to visible in Cassandra
	$(SERVERS) -- env $(BENCH)/latency.py $(ARGS)

.PHONY: bench-source
bench-source: build setup-servers $(BENCH_VENV)/ready ## Nexmark from Kafka into blackhole, beside bare loops
	cargo build --locked -p polybolos-kafka --example nexmark
	$(SERVERS) -- env $(BENCH)/source.py $(ARGS)

.PHONY: bench-nexmark
bench-nexmark: build setup-servers $(BENCH_VENV)/ready $(FLINK_VENV)/ready $(FLINK_JARS)/ready ## Nexmark's queries from Kafka, beside Flink SQL
	cargo build --locked -p polybolos-kafka --example nexmark
	$(SERVERS) -- env $(BENCH)/nexmark.py $(ARGS)

.PHONY: bench-executors
bench-executors: build setup-servers $(BENCH_VENV)/ready ## CPU per event of jobs with state on 1, 2 and 4 executors
	cargo build --locked -p polybolos-kafka --example nexmark
	$(SERVERS) -- env $(BENCH)/executors.py $(ARGS)

.PHONY: bench-state
bench-state: build setup-servers $(BENCH_VENV)/ready ## Cost per event, memory, snapshot and restore of states of 10 000 to 10 000 000 keys
	$(SERVERS) -- env $(BENCH)/state.py $(ARGS)

.PHONY: bench-compaction
bench-compaction: build setup-servers $(BENCH_VENV)/ready ## Pauses of output while a state of 1 GB is compacted
	$(SERVERS) -- env $(BENCH)/compaction.py $(ARGS)

.PHONY: bench-epochs
bench-epochs: build setup-servers $(BENCH_VENV)/ready ## CPU of an epoch of one record, beside a trivial query on Ballista
	cargo build --locked -p polybolos-scheduler --example ballista
	$(SERVERS) -- env $(BENCH)/epochs.py $(ARGS)

.PHONY: bench-failover
bench-failover: build setup-servers $(BENCH_VENV)/ready ## Seconds without output after executors and schedulers are killed, or hang
	$(SERVERS) -- env $(BENCH)/failover.py $(ARGS)

.PHONY: bench-sink
bench-sink: build setup-servers $(BENCH_VENV)/ready ## Rows into Cassandra by our sink, beside a bare loop of its driver
	cargo build --locked -p polybolos-cassandra --example sink
	$(SERVERS) -- env $(BENCH)/sink.py $(ARGS)

.PHONY: bench-idle
bench-idle: build $(BENCH_VENV)/ready ## Memory of the demo, CPU of a job that has nothing to do
	$(BENCH)/idle.py $(ARGS)

$(BENCH_VENV)/ready: bench/requirements.txt
	@scripts/apt.sh python3-venv
	@echo "setting up the benchmarks' Python in $(@D)"
	python3 -m venv $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

$(SPARK_VENV)/ready: bench/spark/requirements.txt
	@scripts/apt.sh python3-venv
	@echo "setting up Spark in $(@D): a download of 300 MB, once"
	python3 -m venv $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

# PyFlink 1.20 runs on Python 3.8 to 3.11.
FLINK_PYTHON := $(firstword $(foreach version,3.11 3.10 3.9 3.8,$(shell command -v python$(version))) python3)

$(FLINK_VENV)/ready: bench/flink/requirements.txt
	@scripts/apt.sh python3-venv
	@echo "setting up Flink in $(@D): a download of 500 MB, once"
	$(FLINK_PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

$(FLINK_JARS)/ready: bench/flink/pom.xml | setup-servers
	@echo "fetching Flink's Kafka connector into $(@D), once"
	mvn --quiet --batch-mode --file $< dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory=$(@D)
	@touch $@

$(SPARK_JARS)/ready: bench/spark/pom.xml | setup-servers
	@echo "fetching Spark's Kafka and Cassandra connectors into $(@D), once"
	mvn --quiet --batch-mode --file $< dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory=$(@D)
	@touch $@
