"""The README's table of features and languages, made from what the suite found.

`feature_table.py RESULTS [--write]`: RESULTS is what `scenarios --results` wrote. A cell names the stores on which every scenario of
that feature passed in that language, or the test that shows it where no scenario can. `--write` puts the table into README.md; without
it the two are compared.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
README = TESTS.parent / "README.md"
BEGIN, END = "<!-- features: made by tests/scripts/feature_table.py -->", "<!-- end of features -->"


def order(feature: str) -> tuple[str, int]:
    return feature[0], int(feature[1:])


def words() -> dict[str, str]:
    """`features.toml`, whose lines are `id = "words"` (tomllib came with Python 3.11)."""
    return dict(re.findall(r'^(\w+) = "(.*)"$', (TESTS / "features.toml").read_text(), re.M))


def tests() -> dict[tuple[str, str], str]:
    """Feature and language to the file of the test, which must be in it."""
    found = {}
    for feature, language, path, name in re.findall(r'^(\w+)\.(\w+) = "(\S+) (.*)"$', (TESTS / "features.toml").read_text(), re.M):
        if name not in (README.parent / path).read_text():
            raise SystemExit(f"tests/features.toml: there is no {name} in {path}")
        found[feature, language] = path
    return found


def table(results: list[dict[str, object]]) -> str:
    """Features down, languages across; results between two languages count for both."""
    found: dict[tuple[str, str, str], bool] = {}
    languages: list[str] = []
    for one in results:
        for language in str(one["language"]).split("+"):
            if language not in languages:
                languages.append(language)
            for feature in one["features"]:  # type: ignore[union-attr]
                key = (str(feature), language, str(one["store"]))
                found[key] = found.get(key, True) and bool(one["passed"])
    meant = words()
    names = {"python": "Python", "node": "TypeScript", "java": "Java", "go": "Go"}
    languages.sort(key=list(names).index)
    lines = ["| | " + " | ".join(names[language] for language in languages) + " |", "|---" * (len(languages) + 1) + "|"]
    elsewhere = tests()
    for feature in sorted({feature for feature, *_ in [*found, *elsewhere]}, key=order):
        cells = []
        for language in languages:
            stores = [short for store, short in (("postgres", "P"), ("sqlite", "S")) if found.get((feature, language, store))]
            broken = [store for store in ("postgres", "sqlite") if found.get((feature, language, store)) is False]
            test = [f"[T]({elsewhere[feature, language]})"] if (feature, language) in elsewhere else []
            cells.append("**fails**" if broken else " ".join(stores + test))
        lines.append(f"| {feature} {meant[feature]} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    made = f"{BEGIN}\n{table(json.loads(Path(sys.argv[1]).read_text()))}\n{END}"
    text = README.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        print(f"README.md has no place for the table: {BEGIN} .. {END}")
        return 1
    wanted = before + made + after
    if "--write" in sys.argv:
        README.write_text(wanted)
    elif wanted != text:
        print("README.md's table is not what the suite found; run feature_table.py with --write")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
