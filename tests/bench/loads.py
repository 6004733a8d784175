"""What is measured, one method a group of measures; each takes one round of every system chosen."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg
from child import Child
from cluster import Cluster
from report import Results
from systems import CORE, POSTGRES, chosen

DATABASE = "bench"

# Another machine, as far as a lease can tell: this process's pid means nothing there.
ELSEWHERE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]


class Bench:
    def __init__(self, cluster: Cluster, results: Results, host: str, only: str, quick: bool) -> None:
        self.cluster, self.results, self.quick = cluster, results, quick
        self.languages = languages = chosen(only)
        self.commands = {CORE: [host], POSTGRES: [host]}
        self.commands |= {language.ours: language.everstep for language in languages} | {
            language.peer: language.dbos for language in languages
        }
        #: Everstep in each language.
        self.bindings = [language.ours for language in languages]
        self.peers = [language.peer for language in languages]
        self.ours = [*([CORE] if only in ("", "core") else []), *self.bindings]
        self.all = [*self.ours, *self.peers]

    def child(self, system: str, load: str, url: str, prefix: list[str] | None = None, **options: Any) -> Child:
        return Child(self.commands[system], load, url, prefix, **options)

    def simple(self, system: str, load: str, config: str, url: str = "", **options: Any) -> None:
        """A load whose result is its measures."""
        child = self.child(system, load, url or self.cluster.fresh(DATABASE), **options)
        child.go()
        for measure, value in child.result().items():
            self.results.add(measure, system, config, value)
        child.end()

    def on_sqlite(self, system: str, load: str, config: str, **options: Any) -> None:
        directory = Path(tempfile.mkdtemp(prefix="everstep-bench-"))
        try:
            child = self.child(system, load, f"sqlite:{directory / 'bench.db'}", **options)
            child.go()
            for measure, value in child.result().items():
                if measure in ("steps_per_s", "step_p50_ms", "step_p99_ms", "queue_tasks_per_s"):
                    self.results.add(measure, system, config, value)
            child.end()
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    # -- one run, one step after another --------------------------------------------------------------------------------

    def commit_latency(self) -> None:
        self.simple(POSTGRES, "commit", "single row", rows=500 if self.quick else 3000)
        for system in self.all:
            # A virtual machine has compiled its hot code after the first thousand.
            count = (100 if self.quick else 300) if system in self.peers else (2000 if self.quick else 3000)
            self.simple(system, "sequential", f"one run; {count} steps", steps=count)
        for system in self.ours:
            count = 500 if self.quick else 3000
            self.on_sqlite(system, "sequential", f"sqlite, one run; {count} steps", steps=count)

    # -- 1,000 in flight ------------------------------------------------------------------------------------------------

    def saturated(self) -> None:
        seconds = 4 if self.quick else 12
        self.simple(POSTGRES, "unnest", "2 connections, batch 200", seconds=seconds)
        for system in self.all:
            self.saturate(system, seconds)
        for system in self.ours:
            self.on_sqlite(system, "steps", f"sqlite, 1,000 in flight; {seconds} s", seconds=seconds, in_flight=1000)

    def saturate(self, system: str, seconds: int) -> None:
        url = self.cluster.fresh(DATABASE)
        if system in self.peers:
            # At its rate a window of seconds would see no run end: a fixed number of runs, all started at once.
            runs = 200 if self.quick else 1000
            options: dict[str, Any] = {"runs": runs}
            config = f"1,000 in flight; {runs} runs, all in flight"
        else:
            options = {"seconds": seconds, "in_flight": 1000}
            config = f"1,000 in flight; {seconds} s"
        child = self.child(system, "steps", url, **options)
        before = self.cluster.mark()
        child.go()
        result = child.result()
        after = self.cluster.mark()
        child.end()
        wal, commits = self.cluster.wal(before, after)
        add = self.results.add
        add("steps_per_s", system, config, result["steps_per_s"])
        add("pg_cpu_s_per_1000_runs", system, config, (after.cpu - before.cpu) * 1000 / result["runs"])
        add("wal_bytes_per_run", system, config, wal / result["runs"])
        add("commits_per_run", system, config, commits / result["runs"])
        add("rss_mb", system, config, result["rss_mb"])

    # -- queues ---------------------------------------------------------------------------------------------------------

    def queue(self) -> None:
        for system in self.all:
            # A rate needs no more of the slower system's time.
            tasks = (1000 if self.quick else 5000) if system in self.peers else 10_000
            self.simple(system, "queue", f"one process; {tasks:,} tasks", tasks=tasks)
        for system in self.ours:
            self.on_sqlite(system, "queue", "sqlite, one process; 10,000 tasks", tasks=10_000)

    def start_latency(self) -> None:
        for system in self.all:
            # Of fewer than 200 the slowest alone would be the 99th percentile.
            tasks = (8 if self.quick else 40) if system in self.peers else (200 if self.quick else 300)
            pause = 1.0 if system in self.peers else 0.05
            url = self.cluster.fresh(DATABASE)
            worker = self.child(system, "starts", url)
            client = self.child(system, "enqueue", url, tasks=tasks, pause_s=pause, settle_s=2 * pause)
            client.go()
            client.result()
            client.end()
            worker.go()
            result = worker.result()
            worker.end()
            if result.pop("n") != tasks:
                raise SystemExit(f"{system}: not every task was started")
            for measure, value in result.items():
                self.results.add(measure, system, f"idle; {tasks} tasks", value)

    # -- what a process costs that does nothing -------------------------------------------------------------------------

    def idle(self) -> None:
        """All systems at once, each in its own database: idle processes do not disturb one another."""
        seconds = 30 if self.quick else 120
        parts: list[tuple[str, str, str, str, Child]] = []
        for system in self.all:
            database = f"idle-{system}"
            child = self.child(system, "idle", self.cluster.fresh(database), queues=50)
            parts.append((system, "50 queues, all idle", database, "postgres", child))
        for one in self.bindings[:1]:
            # What a fleet costs is the core's doing; one language shows it.
            database, busy, still = "fleet", self.cluster.role("busy"), self.cluster.role("still")
            self.cluster.fresh(database)
            for config, user, load in [
                ("50 queues, busy process; beyond the work itself", busy, "busy"),
                ("50 queues, idle beside a busy process", still, "idle"),
            ]:
                child = self.child(one, load, self.cluster.url(database, user), queues=50)
                parts.append((one, config, database, user, child))
        # What a start does once is not what idling costs, and a worker without runs gives its lease up after a while.
        time.sleep(30)
        with self.cluster.counting():
            time.sleep(1)
            self.cluster.reset_statements()
            time.sleep(seconds)
            for system, config, database, user, _ in parts:
                statements = self.cluster.statements(database, user)
                if "busy process; beyond" in config:
                    statements = [(calls, query) for calls, query in statements if not is_work(query)]
                total = sum(calls for calls, _ in statements)
                self.results.add("idle_statements_per_s", system, f"{config}; {seconds} s", total / seconds)
        for *_, child in parts:
            child.go()
            child.result()
            child.end()

    # -- recovery -------------------------------------------------------------------------------------------------------

    def recovery(self) -> None:
        for system in self.all:
            if system == CORE:
                continue
            runs = (100 if self.quick else 300) if system in self.peers else 1000
            self.killed(system, runs, f"same host; {runs:,} runs", None)
        for system in self.bindings:
            self.killed(system, 1000, "elsewhere, after the lease; 1,000 runs", ELSEWHERE)

    def killed(self, system: str, runs: int, config: str, prefix: list[str] | None) -> None:
        url = self.cluster.fresh(DATABASE)
        standby = self.child(system, "recover", url, prefix) if prefix else None
        holder = self.child(system, "hold", url, hold=runs)
        if standby:
            standby.go()
            standby.read("launched")
        holder.kill()
        if standby is None:
            standby = self.child(system, "recover", url)
            standby.go()
            began = float(standby.read("launched")["launched"])
        else:
            began = float(self.until("select extract(epoch from min(at)) from everstep.dead_worker", lambda row: row[0]))
        if system in self.peers:
            finished = "select count(*), max(updated_at) / 1000.0 from dbos.workflow_status where status = 'SUCCESS'"
        else:
            finished = "select count(*), extract(epoch from max(at)) from everstep.outcome"
        ended = float(self.until(finished, lambda row: row[1] if row[0] == runs else None))
        self.results.add("recovery_s", system, config, ended - began)
        standby.go()
        standby.end()

    def until(self, query: str, wanted: Any) -> Any:
        """Ask from outside, gently, until there is an answer."""
        deadline = time.monotonic() + 300
        with psycopg.connect(self.cluster.url(DATABASE), autocommit=True) as connection:
            while time.monotonic() < deadline:
                row = connection.execute(query.encode()).fetchone()
                if row is not None and (found := wanted(row)) is not None:
                    return found
                time.sleep(0.1)
        raise SystemExit(f"no answer in 300 s: {query}")

    # -- memory and backlogs --------------------------------------------------------------------------------------------

    def sleeping(self) -> None:
        runs = 10_000 if self.quick else 100_000
        for system in self.ours[:2]:
            self.simple(system, "sleepers", f"sleeping runs, MB more; {runs:,} runs", runs=runs)

    def waiting(self) -> None:
        for language in self.languages:
            if language.waiting is None:
                continue
            load, result, measure, _ = language.waiting
            seconds = 3 if self.quick else 10
            child = self.child(language.ours, load, self.cluster.fresh(DATABASE), runs=10_000, seconds=seconds)
            child.go()
            self.results.add(measure, language.ours, "10,000 waiting runs", child.result()[result])
            child.end()

    def backlog(self) -> None:
        if not self.bindings:
            return
        one = self.bindings[0]
        size = 50_000 if self.quick else 1_000_000
        for variant, config in [
            ("queue", "backlog of another queue"),
            ("workflow", "backlog of another workflow on the same queue"),
            ("delayed", "backlog all delayed"),
        ]:
            url = self.cluster.fresh(DATABASE)
            filler = self.child(one, "fill", url, variant=variant, runs=size)
            filler.go()
            filler.result()
            filler.end()
            worker = self.child(one, "starts", url)
            client = self.child(one, "enqueue", url, tasks=100, pause_s=0.05, settle_s=1)
            client.go()
            client.result()
            client.end()
            worker.go()
            result = worker.result()
            worker.end()
            if result["n"] != 100:
                raise SystemExit("not every task was started beside the backlog")
            self.results.add("other_queue_claim_p99_ms", one, f"{config}; {size:,} runs", result["start_p99_ms"])


def is_work(query: str) -> bool:
    """Whether a statement carries work: starts, checkpoints, outcomes, claims, and the transactions around them."""
    text = " ".join(query.lower().split())
    if ".worker" in text or ".lease" in text or ".dead_worker" in text:
        # Heartbeat and housekeeping; what writes for a run names the lease too, but locks it or inserts.
        inserts = "insert into" in text and not any(table in text for table in (".worker", ".dead_worker"))
        return inserts or text.startswith(("select l.ok", "with t0"))
    return text.startswith(("begin", "commit", "rollback", "insert", "delete", "update", "with", "select l.ok"))
