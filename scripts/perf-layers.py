#!/usr/bin/env python3
"""Where the gateway's CPU time goes: samples of perf by thread and by layer, in per cent.

    perf record -F 4000 -e cpu-clock -g -p PID -o FILE -- sleep 4
    scripts/perf-layers.py FILE

A sample in the kernel is booked to the call that it serves, else to the part of the gateway that its innermost function belongs to.
Functions that the compiler put into others are booked to those.
"""

import subprocess
import sys
from collections import Counter

# In this order: the first that a frame of the stack names is it.
KERNEL = {
    "fdatasync": "kernel: syncs",
    "tcp_sendmsg": "kernel: sending",
    "sendto": "kernel: sending",
    "writev": "kernel: sending",
    "tcp_recvmsg": "kernel: receiving",
    "recvfrom": "kernel: receiving",
    "pwrite": "kernel: writing files",
    "vfs_write": "kernel: writing files",
}
OURS = {
    "sha2::": "SHA-256",
    "fearless_simd": "id and type",
    "simdutf8": "id and type",
    "identify": "id and type",
    "json": "id and type",
    "sqlite3": "SQLite",
    "xxhash": "checksums",
    "memmove": "allocator, copies, clock",
    "clock_gettime": "allocator, copies, clock",
    "malloc": "allocator, copies, clock",
    "free": "allocator, copies, clock",
    "je_": "allocator, copies, clock",
    "arena": "allocator, copies, clock",
    "tcache": "allocator, copies, clock",
    "tokio::": "tokio",
    "inbox": "inbox",
    "deliver": "delivery",
    "upstream": "delivery",
    "handoff": "delivery",
    "receive": "front door",
}


def layer(frames):
    """Of a stack, innermost first."""
    leaf = frames[0]
    if "kernel" in leaf:
        stack = "|".join(frames)
        return next((name for part, name in KERNEL.items() if part in stack), "kernel: the rest")
    return next((name for part, name in OURS.items() if part in leaf), "the rest")


def main():
    script = ["perf", "script", "-i", sys.argv[1], "-F", "comm,ip,sym,dso"]
    samples = subprocess.run(script, capture_output=True, text=True, check=True).stdout.split("\n\n")
    threads, layers = Counter(), Counter()
    for sample in samples:
        head, *frames = sample.strip("\n").split("\n")
        if frames:
            threads[head.strip()] += 1
            layers[layer(frames)] += 1
    for counts in threads, layers:
        for name, count in counts.most_common():
            share = 100 * count / counts.total()
            if share >= 0.05:
                print(f"{name:28} {share:5.1f} %")
        print()


if len(sys.argv) != 2:
    sys.exit(__doc__)
main()
