#!/usr/bin/env python3
"""Builds of hooklatch beside HAProxy, by turns of less than a second: on a machine whose speed changes from minute to minute
this tells differences of a few per cent, which whole runs one behind the other do not.

    BENCH_DIR=... scripts/bench-turns.py MODE BYTES ROUNDS SECS BINARY...

All servers run at once on core 0, and each in its turn gets the load from core 1. CPU time is that of the whole process until
its events are delivered; ratios are medians over the rounds. Needs the harness's hookload, built (BENCH_TARGET_DIR), and haproxy.
"""

import base64
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SECRET = "bench-secret"
ROUTE = """listen = "127.0.0.1:{port}"
workers = 1
drain_delay = "0s"
[store]
path = "{folder}/store"
allow_ephemeral = true
[admin]
listen = "127.0.0.1:0"
[secrets]
bench = {{ value = "bench-secret" }}
[[route]]
path = "/webhook"
provider = "quantiv"
secrets = ["bench"]
mode = "{mode}"
upstream = {{ url = "http://127.0.0.1:{sink}/" }}
"""


def cpu_seconds(pid):
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            total += int((task / "schedstat").read_text().split()[0])
        except OSError:
            pass  # It has ended.
    return total / 1e9


def main():
    mode, size, rounds, secs = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
    bench = Path(os.environ["BENCH_DIR"])
    hookload = Path(os.environ.get("BENCH_TARGET_DIR", bench / "hookload/target")) / "release/hookload"
    folder = Path(tempfile.mkdtemp(prefix="turns."))
    sink, port, children = 24100, 24110, []

    def start(cpu, *command):
        child = subprocess.Popen(
            ["taskset", "-c", str(cpu), *map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        children.append(child)
        return child

    try:
        start(1, hookload, "sink", "--listen", f"127.0.0.1:{sink}")
        config = (bench / "peers/haproxy/forward.cfg").read_text()
        encoded = base64.b64encode(SECRET.encode()).decode()
        for name, value in [("PORT", port), ("SINKPORT", sink), ("SECRET_B64", encoded), ("SECRET", SECRET), ("RUN", folder)]:
            config = config.replace(f"@{name}@", str(value))
        (folder / "haproxy.cfg").write_text(config)
        servers = {"haproxy": (start(0, "haproxy", "-db", "-f", folder / "haproxy.cfg"), port)}
        for binary in sys.argv[5:]:
            port += 1
            own = folder / str(port)
            own.mkdir()
            (own / "hooklatch.toml").write_text(ROUTE.format(port=port, folder=own, mode=mode, sink=sink))
            servers[binary] = (start(0, binary, "run", "-c", own / "hooklatch.toml"), port)
        time.sleep(1)

        def turn(name, secs):
            child, port = servers[name]
            before = cpu_seconds(child.pid)
            load = ["taskset", "-c", "1", str(hookload), "load", "--url", f"http://127.0.0.1:{port}/webhook"]
            load += ["--secret", SECRET, "--conns", "64", "--size", size, "--duration", str(secs)]
            answered = json.loads(subprocess.run(load, capture_output=True, text=True, check=True).stdout)
            if mode == "queue":
                time.sleep(0.15)  # What is left is delivered.
            micros = (cpu_seconds(child.pid) - before) / answered["answered"] * 1e6
            return micros, answered["answered"] / answered["wall_s"]

        for name in servers:
            turn(name, 0.3)
        measured = {name: [] for name in servers}
        for number in range(rounds):
            names = list(servers)
            shift = number % len(names)
            for name in names[shift:] + names[:shift]:
                measured[name].append(turn(name, secs))
        for name, turns in measured.items():
            median = [statistics.median(values) for values in zip(*turns)]
            ratio = statistics.median(turn[1] / peer[1] for turn, peer in zip(turns, measured["haproxy"]))
            print(f"{name:40} {median[0]:7.1f} us  {median[1]:8.0f} a second  {ratio:5.2f} x haproxy")
    finally:
        for child in children:
            child.terminate()
        for child in children:
            child.wait(timeout=10)
        shutil.rmtree(folder, ignore_errors=True)


main()
