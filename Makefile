# make run     the gateway and a sample app on this machine, with a transcript; Ctrl-C ends both
# make test    everything, crash and power-cut rounds included
# make check   formatting and lints
# make bench   figures of this machine; BENCH_DIR=... adds the comparison with other gateways
# make image   the container image
# make setup   what the build needs: a C compiler, make and cmake

.PHONY: run test check bench setup image

run: setup
	cargo build --release --bin hooklatch --example sample_app
	scripts/run-demo.sh

test: setup
	scripts/test.sh

check: setup
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings

bench: setup
	scripts/bench.sh

setup:
	@scripts/setup.sh

image:
	scripts/image.sh
