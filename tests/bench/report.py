"""Rounds in, medians and ratios out: the table on the screen and `target/bench.json`."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from systems import CORE, LANGUAGES, POSTGRES, SYSTEMS, Language

# Measure -> (unit, what it is). The order is the order of the table.
MEASURES: dict[str, tuple[str, str]] = {
    "pg_cpu_s_per_1000_runs": ("s", "PostgreSQL CPU for 1,000 ten-step runs"),
    "wal_bytes_per_run": ("B", "WAL a ten-step run, without full page images"),
    "commits_per_run": ("", "commit records a ten-step run"),
    "step_p50_ms": ("ms", "one run, steps one after another"),
    "step_p99_ms": ("ms", ""),
    "commit_p50_ms": ("ms", "single-row commit, one connection"),
    "steps_per_s": ("/s", "recorded steps of complete ten-step runs"),
    "unnest_rows_per_s": ("/s", "bare insert of the same rows, no fence"),
    "queue_tasks_per_s": ("/s", "no-op tasks, enqueued and run by one process"),
    "start_p50_ms": ("ms", "enqueue to start, idle, from another process"),
    "start_p99_ms": ("ms", ""),
    "idle_statements_per_s": ("/s", "statements of a process with 50 queues"),
    "recovery_s": ("s", "1,000 runs x 10 recorded steps of a killed process"),
    "rss_mb": ("MB", "resident memory over the interpreter's own"),
    "event_loop_p99_ms": ("ms", "event-loop delay while 10,000 runs wait"),
    "os_threads": ("", "OS threads while 10,000 runs wait"),
    "other_queue_claim_p99_ms": ("ms", "enqueue to start beside a backlog"),
}
HIGHER_IS_BETTER = {"steps_per_s", "queue_tasks_per_s", "unnest_rows_per_s"}


class Results:
    def __init__(self) -> None:
        self.rounds: dict[tuple[str, str, str], list[float]] = {}

    def add(self, measure: str, system: str, config: str, value: float) -> None:
        assert measure in MEASURES, measure
        self.rounds.setdefault((measure, system, config), []).append(value)

    def rows(self) -> list[dict[str, Any]]:
        order = list(MEASURES)
        keys = sorted(self.rounds, key=lambda key: (order.index(key[0]), key[2], SYSTEMS.index(key[1])))
        return [
            {
                "measure": measure,
                "system": system,
                "unit": MEASURES[measure][0],
                "median": statistics.median(self.rounds[measure, system, config]),
                "min": min(self.rounds[measure, system, config]),
                "max": max(self.rounds[measure, system, config]),
                "rounds": self.rounds[measure, system, config],
                "config": config,
            }
            for measure, system, config in keys
        ]

    def median(self, measure: str, system: str, config_has: str = "") -> float | None:
        for (m, s, config), values in self.rounds.items():
            if m == measure and s == system and config_has in config and "sqlite" not in config:
                return statistics.median(values)
        return None


def machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo").read_text()
    model = next((line.split(":", 1)[1].strip() for line in info.splitlines() if line.startswith("model name")), "?")
    memory = Path("/proc/meminfo").read_text().split()[1]
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gib": round(int(memory) / 2**20, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
    }


def short(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def print_rows(rows: list[dict[str, Any]]) -> None:
    print(f"\n{'measure':<26}{'system':<17}{'median':>10} {'unit':<4}{'min .. max':>20}  config; rounds")
    last = ""
    for row in rows:
        name = row["measure"] if row["measure"] != last else ""
        last = row["measure"]
        spread = f"{short(row['min'])} .. {short(row['max'])}"
        rounds = " ".join(short(value) for value in row["rounds"])
        print(f"{name:<26}{row['system']:<17}{short(row['median']):>10} {row['unit']:<4}{spread:>20}  {row['config']}; {rounds}")


Target = tuple[str, float | None, str, float]


def ratio(top: float | None, bottom: float | None) -> float | None:
    return top / bottom if top is not None and bottom else None


def promised(results: Results, language: Language) -> list[Target]:
    """What the project promises of one language: (name, here, comparison, wanted)."""

    def of(measure: str, config: str = "") -> float | None:
        return results.median(measure, language.ours, config)

    def against_peer(measure: str) -> float | None:
        return ratio(of(measure), results.median(measure, language.peer))

    commit = results.median("commit_p50_ms", POSTGRES)
    rows: list[Target] = [
        ("steps/s against DBOS", against_peer("steps_per_s"), ">=", language.steps_ratio),
        ("steps/s", of("steps_per_s"), ">=", language.steps_per_s),
        ("step p50 against a commit", ratio(of("step_p50_ms"), commit), "<=", language.step_p50_ratio),
        ("queue tasks/s against DBOS", against_peer("queue_tasks_per_s"), ">=", language.queue_ratio),
        ("start p50 ms", of("start_p50_ms"), "<=", 4),
        ("start p99 ms", of("start_p99_ms"), "<=", 12),
        ("statements/s, all idle", of("idle_statements_per_s", "all idle"), "<=", 0.05),
        ("recovery on the same host, s", of("recovery_s", "same host"), "<=", 2),
        ("recovery elsewhere after the lease, s", of("recovery_s", "elsewhere"), "<=", 1),
        ("PostgreSQL CPU s, 1,000 runs", of("pg_cpu_s_per_1000_runs"), "<=", 0.25),
        ("commits a run", of("commits_per_run"), "<=", 0.1),
        ("WAL bytes a run", of("wal_bytes_per_run"), "<=", 6500),
    ]
    if language.rss_mb is not None:
        rows.append(("MB, 1,000 runs in flight", of("rss_mb", "in flight"), "<=", language.rss_mb))
    if language.waiting is not None:
        *_, measure, most = language.waiting
        rows.append((f"{measure}, 10,000 waiting runs", of(measure), "<", most))
    return [(f"{language.name}: {name}", here, sign, wanted) for name, here, sign, wanted in rows]


def targets(results: Results) -> list[Target]:
    rows: list[Target] = [
        (
            "core: steps/s against bare inserts",
            ratio(results.median("steps_per_s", CORE), results.median("unnest_rows_per_s", POSTGRES)),
            ">=",
            0.5,
        )
    ]
    for language in LANGUAGES:
        rows += promised(results, language)
    # Of the core, whatever language shows it.
    fleet: list[tuple[str, str, str, str, float]] = [
        ("statements/s, idle beside a busy fleet", "idle_statements_per_s", "beside", "<=", 0.2),
        ("statements/s, busy, beyond the work", "idle_statements_per_s", "busy process", "<=", 0.5),
        ("MB more, 100,000 sleeping runs", "rss_mb", "sleeping", "<=", 10),
        ("claim p99 ms, another queue's backlog", "other_queue_claim_p99_ms", "another queue", "<", 100),
        ("claim p99 ms, another workflow's backlog", "other_queue_claim_p99_ms", "another workflow", "<", 100),
        ("claim p99 ms, all delayed", "other_queue_claim_p99_ms", "delayed", "<", 100),
    ]
    for name, measure, config, sign, wanted in fleet:
        for language in LANGUAGES:
            here = results.median(measure, language.ours, config)
            if here is not None:
                rows.append((name, here, sign, wanted))
    return rows


def print_ratios(rows: list[dict[str, Any]]) -> None:
    # The part of a config before ";" is the variant; behind it stands what differs between systems or between long and short runs.
    by_key = {(row["measure"], row["config"].split(";")[0], row["system"]): row["median"] for row in rows}
    print(f"\n{'against the peer':<26}" + "".join(f"{language.ours:>17}" for language in LANGUAGES))
    for measure, variant in dict.fromkeys((measure, variant) for measure, variant, _ in by_key):
        cells = []
        for language in LANGUAGES:
            own, peer = (by_key.get((measure, variant, system)) for system in (language.ours, language.peer))
            better = (own / peer if measure in HIGHER_IS_BETTER else peer / own) if own and peer else None
            cells.append(f"{short(better)} x" if better else "")
        if any(cells):
            print(f"{measure:<26}" + "".join(f"{cell:>17}" for cell in cells))


def print_targets(results: Results) -> None:
    compare: dict[str, Callable[[float, float], bool]] = {
        ">=": lambda a, b: a >= b,
        "<=": lambda a, b: a <= b,
        "<": lambda a, b: a < b,
    }
    print(f"\n{'target':<44}{'here':>10}   {'wanted':<10}")
    for name, here, sign, wanted in targets(results):
        if here is not None:
            verdict = "reached" if compare[sign](here, wanted) else "MISSED"
            print(f"{name:<44}{short(here):>10}   {sign} {short(wanted):<8} {verdict}")


def write(path: Path, settings: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine() | settings, "rows": rows}, indent=1) + "\n")


def markdown(rows: list[dict[str, Any]]) -> str:
    """The figures of the README, in its order: cost on the database, a lone step, saturation."""
    systems = [system for system in SYSTEMS if any(row["system"] == system for row in rows)]
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        variant = row["config"].split(";")[0]
        value = f"{short(row['median'])} {row['unit']}".strip()
        cells.setdefault((row["measure"], variant), {})[row["system"]] = value
    lines = ["| | " + " | ".join(systems) + " |", "|---" * (len(systems) + 1) + "|"]
    for (measure, variant), values in cells.items():
        name = MEASURES[measure][1] or measure.replace("_", " ")
        lines.append(f"| {name} ({variant}) | " + " | ".join(values.get(system, "") for system in systems) + " |")
    return "\n".join(lines) + "\n"
