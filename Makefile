# Everything from a fresh clone: each target does its own set-up.
.PHONY: build guests demo test bench servers wasmtime fmt

SLUICEGATE := target/release/sluicegate

# The components, then the service, which carries the default guest inside.
build: guests
	cargo build --release --locked -p sluicegate

guests:
	@tests/setup/tools.sh
	cargo build --profile guest --locked --target wasm32-wasip2 -p guest-default -p guest-strict

# The whole service on private servers, for DEMO_SECONDS (20).
demo: build servers
	@$(SLUICEGATE) demo

servers:
	@tests/setup/servers.sh
