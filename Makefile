# Everything from a fresh clone: each target does its own set-up.
.PHONY: help settings build guests hostile failpoints demo test test-one deny advisories soak bench servers redis-7.0 prometheus schemas schemathesis kits wasmtime wac book

DEMO := target/release/sluicegate-demo
COMPONENTS := cargo build --profile guest --locked --target wasm32-wasip2
# For what is only tested, and not measured: the crate of the service takes six minutes of a processor to optimise. What it
# depends on is the same, and is compiled once.
UNOPTIMISED := cargo --config profile.release.package.sluicegate.opt-level=0
# The tests within the libraries.
UNIT_TESTS := $(UNOPTIMISED) test --release --locked --workspace --lib
# What tests start besides what is built here, each fetched or built once.
TOOLS := servers redis-7.0 prometheus kits schemas wasmtime wac

help:
	@sed -n 's/^\([a-z0-9.-]*\):.*## /  \1\t/p' $(MAKEFILE_LIST) | expand -t 16

# The components, then the service, which carries the default guest inside. All of the workspace is selected, here and for
# the tests, so that dependencies have the same features everywhere and are compiled once.
build: guests ## the components and the service
	cargo build --release --locked --workspace --bins

# The service with failpoints, for the tests: only the crate itself is compiled again.
failpoints: guests ## the service with places at which tests make it fail
	$(UNOPTIMISED) build --release --locked --workspace --features sluicegate/failpoints --bin sluicegate-failpoints

guests: ## the components that ship, and what makes commands of them
	@tests/setup/tools.sh
	$(COMPONENTS) -p guest-default -p guest-strict -p guest-enrich
	$(COMPONENTS) -p guest-schema
	$(COMPONENTS) -p guest-harness -p guest-stubs

# Guests for the tests: one for each way to misbehave, and one that returns the verdicts it is told.
hostile: guests ## the components of the tests
	$(COMPONENTS) -p guest-hostile -p guest-scripted -p guest-bytes -p guest-released --lib --examples

# The whole service on private servers, for DEMO_SECONDS (20).
demo: build servers ## the whole service on private servers, for DEMO_SECONDS
	@$(DEMO) demo

# Everything, against real servers: those of REDIS_URL and POSTGRES_URL if set, else private ones.
# One profile for all of it, so that the heavy dependencies are built once. Most of a test is waiting: hence the threads.
test: build hostile failpoints $(TOOLS) deny book ## everything that continuous integration runs
	cargo fmt --all --check
	cargo clippy --release --locked --workspace --all-targets -- -D warnings
	cargo clippy --release --locked --workspace --lib --bins -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" cargo doc --release --locked --workspace --no-deps --document-private-items --quiet
	$(UNIT_TESTS)
	cargo test --release --locked --workspace --doc
	$(DEMO) servers -- cargo test --release --locked --workspace --test '*' -- --test-threads 4

test-one: build hostile failpoints $(TOOLS) ## the tests whose names contain T
	$(UNIT_TESTS) -- $(T)
	$(DEMO) servers -- cargo test --release --locked --workspace --test service -- --test-threads 4 $(T)

# What deny.toml says of licences, sources and crates that are not wanted.
deny: ## the licences and sources of all dependencies
	@tests/setup/tools.sh deny bans licenses sources

# Fetches the RustSec database, so it needs GitHub.
advisories: ## known vulnerabilities of dependencies
	@tests/setup/tools.sh deny advisories

# What the manual and the example say about settings, from the table in host/src/config/settings.rs.
settings: build ## docs/settings.md and sluicegate.example.toml anew
	target/release/sluicegate settings > sluicegate.example.toml
	sed -i '/^| variable/,$$d' docs/settings.md
	target/release/sluicegate settings --markdown >> docs/settings.md

# Random faults for SOAK_SECONDS (3600): crashes, restarts, pauses, a broken network. SOAK_SEED repeats a schedule.
soak: build servers ## random faults for SOAK_SECONDS; SOAK_SEED repeats a schedule
	cargo build --release --locked -p sluicegate-tests --bin soak
	target/release/soak

# Events a second, the price of the sandbox, transactions an event.
bench: build servers ## events a second
	cargo bench --locked --workspace --bench throughput

servers: ## private Redis and TimescaleDB, fetched once
	@tests/setup/servers.sh

redis-7.0: ## the oldest Redis that is supported, fetched once
	@tests/setup/servers.sh redis-7.0

# Not a part of the tests: it takes PyPI, and some minutes.
schemathesis: build servers ## asks the admin API all that its document allows, EXAMPLES (100) times
	$(DEMO) servers -- tests/setup/schemathesis.sh

prometheus: ## Prometheus, and its check of metrics, fetched once
	@tests/setup/servers.sh prometheus

kits: ## the tools of rules in JavaScript and Python, fetched once
	@tests/setup/kits.sh

schemas: ## the JSON-Schema-Test-Suite, fetched once
	@tests/setup/schemas.sh

wasmtime: ## the wasmtime command line, built once
	@tests/setup/tools.sh wasmtime

wac: ## the program that puts components together, built once
	@tests/setup/tools.sh wac

# The tests see that its links lead somewhere, and that its commands do what it says.
book: ## the documentation as a small book, target/book/index.html
	@tests/setup/tools.sh mdbook build
