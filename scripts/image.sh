#!/usr/bin/env bash
# Builds the container image with docker, podman or buildah. More arguments go to the build, such as --build-arg.
set -euo pipefail
cd "$(dirname "$0")/.."

tag=${IMAGE:-hooklatch:$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)}
if command -v docker >/dev/null; then
    exec docker build -t "$tag" "$@" .
fi
for tool in podman buildah; do
    if command -v "$tool" >/dev/null; then
        # Their own default format has no HEALTHCHECK.
        exec "$tool" build --format docker -t "$tag" "$@" .
    fi
done
echo "none of docker, podman and buildah is installed" >&2
exit 1
