# make run     the gateway and a sample app on this machine, with a transcript; Ctrl-C ends both
# make test    everything, crash and power-cut rounds included
# make prove   the long form of every rig that tries to break a promise; RIGS="power_cut fuzz" picks some (docs/reliability.md)
# make check   formatting and lints
# make bench   figures of this machine; BENCH_DIR=... adds the comparison with other gateways
# make docs    docs/providers.md from config/providers
# make image   the container image
# make setup   what the build needs: a C compiler, make and cmake

.PHONY: run test prove check bench docs setup image

run: setup
	cargo build --release --bin hooklatch --example sample_app
	scripts/run-demo.sh

test: setup
	scripts/test.sh

prove: setup
	scripts/prove.sh $(RIGS)

check: setup
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings

docs: setup
	cargo run --quiet --bin hooklatch -- providers page > docs/providers.md.new
	mv docs/providers.md.new docs/providers.md

bench: setup
	scripts/bench.sh

setup:
	@scripts/setup.sh

image:
	scripts/image.sh
