# Everything from a fresh clone: each target does its own set-up.
.PHONY: build guests hostile failpoints demo test soak bench servers redis-7.0 wasmtime

SLUICEGATE := target/release/sluicegate
COMPONENTS := cargo build --profile guest --locked --target wasm32-wasip2

# The components, then the service, which carries the default guest inside.
build: guests
	cargo build --release --locked -p sluicegate

# The service with failpoints, for the tests: only the crate itself is compiled again.
failpoints: guests
	cargo build --release --locked -p sluicegate --features failpoints --bin sluicegate-failpoints

guests:
	@tests/setup/tools.sh
	$(COMPONENTS) -p guest-default -p guest-strict -p guest-enrich

# Guests for the tests: one for each way to misbehave, and one that returns the verdicts it is told.
hostile: guests
	$(COMPONENTS) -p guest-hostile -p guest-scripted --lib --examples

# The whole service on private servers, for DEMO_SECONDS (20).
demo: build servers
	@$(SLUICEGATE) demo

# Everything, against real servers: those of REDIS_URL and POSTGRES_URL if set, else private ones.
# One profile for all of it, so that the heavy dependencies are built once. Most of a test is waiting: hence the threads.
test: build hostile failpoints servers redis-7.0 wasmtime
	cargo fmt --all --check
	cargo clippy --release --locked --workspace --all-targets -- -D warnings
	$(SLUICEGATE) servers -- cargo test --release --locked --workspace -- --test-threads 4

# Random faults for SOAK_SECONDS (3600): crashes, restarts, pauses, a broken network. SOAK_SEED repeats a schedule.
soak: build servers
	cargo build --release --locked -p sluicegate-tests --bin soak
	target/release/soak

# Events a second, the price of the sandbox, transactions an event.
bench: build servers
	cargo bench --locked -p sluicegate --bench throughput

servers:
	@tests/setup/servers.sh

redis-7.0:
	@tests/setup/servers.sh redis-7.0

wasmtime:
	@tests/setup/tools.sh wasmtime
