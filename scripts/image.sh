#!/usr/bin/env bash
# Builds the container image with docker, podman or buildah. More arguments go to the build, such as --build-arg.
set -euo pipefail
cd "$(dirname "$0")/.."

tag=${IMAGE:-hooklatch:$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)}
for tool in docker podman buildah; do
    if command -v "$tool" >/dev/null; then
        exec "$tool" build -t "$tag" "$@" .
    fi
done
echo "none of docker, podman and buildah is installed" >&2
exit 1
