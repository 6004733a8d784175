"""`make bench`: Everstep in each language, DBOS in the same language, and bare PostgreSQL side by side on one private cluster.

Every measure is taken in alternating rounds, each in an empty database. ONLY=python measures one language, ONLY=core only the
Rust host; QUICK=1 is short. Writes target/bench.json.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import loads  # noqa: E402  (beside this file, which is run as a directory)
from cluster import SETTINGS, Cluster  # noqa: E402
from report import Results, markdown, print_ratios, print_rows, print_targets, write  # noqa: E402
from systems import JAVA_VERSION  # noqa: E402

ROOT = HERE.parents[1]


def main() -> int:
    only, quick = os.environ.get("ONLY", ""), os.environ.get("QUICK", "") not in ("", "0")
    rounds = int(os.environ.get("ROUNDS", "1" if quick else "3"))
    host = os.environ.get("BENCH_HOST", "")
    if not host:
        raise SystemExit("run this as `make bench`: it builds the host program")
    began = time.monotonic()
    results = Results()
    cluster = Cluster()
    try:
        bench = loads.Bench(cluster, results, host, only, quick)
        plan: list[Callable[[], None]] = [
            bench.commit_latency,
            bench.saturated,
            bench.queue,
            bench.start_latency,
            bench.idle,
            bench.recovery,
            bench.sleeping,
            bench.waiting,
            bench.backlog,
        ]
        for number in range(rounds):
            for part in plan:
                print(f"round {number + 1} of {rounds}: {part.__name__.replace('_', ' ')}", end="", flush=True)
                started = time.monotonic()
                part()
                print(f", {time.monotonic() - started:.0f} s", flush=True)
        version = cluster.version
    finally:
        cluster.close()
    rows = results.rows()
    print_rows(rows)
    print_ratios(rows)
    print_targets(results)
    settings = {"java": JAVA_VERSION, "postgres": version, "settings": SETTINGS, "rounds": rounds, "quick": quick, "only": only or "all"}
    print(f"\nPostgreSQL {version}: " + ", ".join(f"{name}={value}" for name, value in SETTINGS.items()))
    target = ROOT / "target" / "bench.json"
    write(target, settings, rows)
    target.with_suffix(".md").write_text(markdown(rows))
    print(f"{time.monotonic() - began:.0f} s; wrote {target.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
