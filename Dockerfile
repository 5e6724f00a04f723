# Build: docker build -t hooklatch .     Run: see README.md
# The compiler that the profile in .cargo is of.
ARG BUILDER=docker.io/library/rust:1.95.0-bookworm
ARG RUNTIME=docker.io/library/debian:bookworm-slim

FROM ${BUILDER} AS builder
RUN command -v cmake >/dev/null \
    || (apt-get update && apt-get install -y --no-install-recommends cmake && rm -rf /var/lib/apt/lists/*)
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bin hooklatch && strip --strip-debug target/release/hooklatch

FROM ${RUNTIME}
RUN test -e /etc/ssl/certs/ca-certificates.crt \
    || (apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/*)
COPY --from=builder /src/target/release/hooklatch /usr/local/bin/hooklatch
COPY config/hooklatch.toml /etc/hooklatch/hooklatch.toml
# The store's folder belongs to the user that runs, so that a fresh volume does too.
RUN install -d -o 65532 -g 65532 -m 0700 /var/lib/hooklatch
USER 65532:65532
VOLUME /var/lib/hooklatch
EXPOSE 8080 9190
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["hooklatch", "health"]
ENTRYPOINT ["hooklatch"]
CMD ["run", "-c", "/etc/hooklatch/hooklatch.toml"]
