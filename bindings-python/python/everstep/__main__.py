"""`python -m everstep`: the demo, and a look at runs from the shell."""

from __future__ import annotations

import argparse
import os
import pathlib
import sys

from . import Everstep, EverstepError, demo


def _missing_file(database: str | None) -> str | None:
    """The SQLite file that is named and not there: connecting would make it, and a mistyped name would show an empty database."""
    named = database or os.environ.get("EVERSTEP_DATABASE_URL") or "everstep.db"
    file = named.removeprefix("sqlite:").removeprefix("//").partition("?")[0]
    return None if named.startswith(("postgres:", "postgresql:")) or os.path.exists(file) else file


def _runs(app: Everstep, options: argparse.Namespace) -> int:
    page = app.runs(states=options.state, workflow=options.workflow, limit=options.limit)
    for info in page.items:
        waits = f"  waits for {'; '.join(info.waits_for)}" if info.waits_for else ""
        print(f"{info.key}  {info.state:<10} {info.workflow:<24} {info.created_at:%Y-%m-%d %H:%M:%S}  {info.id or ''}{waits}")
    if page.next is not None:
        print("... more: --limit")
    return 0


def _run(app: Everstep, options: argparse.Namespace) -> int:
    handle = app.run(key=options.run) if options.key else app.run(options.run)
    info = handle.status()
    for name in (
        "key",
        "id",
        "workflow",
        "state",
        "queue",
        "attempt",
        "owner_host",
        "owner_pid",
        "created_at",
        "finished_at",
        "error_type",
    ):
        value = getattr(info, name)
        if value is not None:
            print(f"{name:<12} {value}")
    for name in ("error_message", "blocked_why"):
        if getattr(info, name):
            print(f"{name:<12} {getattr(info, name)}")
    for wait in info.waits_for:
        print(f"{'waits for':<12} {wait}")
    for step in handle.steps():
        outcome = "failed" if step.failed else "ok"
        print(f"  {step.branch}/{step.seq:<4} {step.kind:<12} {step.name:<24} {outcome:<7} attempt {step.attempt}  {step.location}")
    return 0


def _cancel(app: Everstep, options: argparse.Namespace) -> int:
    handle = app.run(key=options.run) if options.key else app.run(options.run)
    print(handle.cancel(by="command line", why=options.why))
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m everstep", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    play = commands.add_parser("demo", help="a checkout whose process is killed in step four, and finished by another")
    play.add_argument("--worker", type=pathlib.Path, help=argparse.SUPPRESS)
    listing = commands.add_parser("runs", help="runs, newest first")
    listing.add_argument("--state")
    listing.add_argument("--workflow")
    listing.add_argument("--limit", type=int, default=50)
    one = commands.add_parser("run", help="one run with its steps")
    cancel = commands.add_parser("cancel", help="ask a run to cancel")
    cancel.add_argument("--why", default="asked from the command line")
    for command in (listing, one, cancel):
        command.add_argument("--database", help="default: EVERSTEP_DATABASE_URL")
    for command in (one, cancel):
        command.add_argument("run", help="the run's id")
        command.add_argument("--key", action="store_true", help="it is the run's key")
    options = parser.parse_args()
    if options.command == "demo":
        if options.worker is not None:
            demo.worker(options.worker)
            return 0
        return demo.main()
    missing = _missing_file(options.database)
    if missing is not None:
        print(f"[config_invalid] there is no database file {missing!r}: name another with --database, or EVERSTEP_DATABASE_URL", file=sys.stderr)
        return 1
    # Looking changes nothing: a mistyped URL must not leave tables in somebody's database.
    app = Everstep(options.database, role="client", auto_migrate=False)
    try:
        return {"runs": _runs, "run": _run, "cancel": _cancel}[options.command](app, options)
    except EverstepError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        app.close()


if __name__ == "__main__":
    sys.exit(main())
