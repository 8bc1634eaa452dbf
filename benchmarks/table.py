"""Writes the recorded results into ``benchmarks/README.md``: ``python -m benchmarks.table``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.script import script
from benchmarks.suite import RESULTS, SUITE

README = RESULTS.parent / "README.md"
BEGIN, END = "<!-- results -->", "<!-- end of results -->"


def render(folder: Path) -> str:
    """The recorded results as Markdown, in the suite's order."""
    parts = []
    for name in SUITE:
        path = folder / f"{name}.json"
        if path.exists():
            parts.append(section(name, json.loads(path.read_text(encoding="utf-8"))))
    return "\n\n".join(parts)


def section(name: str, result: Mapping[str, Any]) -> str:
    """One record: how to run it again, its tables, its chart."""
    lines = [
        f"### {name}",
        "",
        f"`{result['command']}`, {result['threads']} threads, {result['instruction_level']}, "
        f"commit {result['commit']}.",
    ]
    for row in result["results"]:
        lines += ["", *(comparison(row) if "contenders" in row else figures(row))]
    if any("contenders" in row for row in result["results"]):
        lines += ["", f"![{name}](results/{name}.svg)"]
    return "\n".join(lines)


def comparison(row: Mapping[str, Any]) -> list[str]:
    """A table of contenders, all against the first."""
    lines = [f"| {row['case']} | median ms | times faster | private MiB |", "|---|---|---|---|"]
    for name, values in row["contenders"].items():
        memory = values.get("anonymous_mb", "")
        lines.append(f"| {name} | {values['median_ms']:,.2f} | {values['times_faster']:.2f} | {memory} |")
    return lines


def figures(row: Mapping[str, Any]) -> list[str]:
    """A table of names and numbers."""
    return ["| figure | value |", "|---|---|", *(f"| {k} | {shown(v)} |" for k, v in row.items())]


def shown(value: float | Sequence[float]) -> str:
    """A number, or several in order."""
    return ", ".join(f"{v:,.0f}" for v in value) if isinstance(value, Sequence) else f"{value:,.2f}"


def updated(text: str, results: str) -> str:
    """A page with other results between its marks."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{results}\n\n{END}{rest.split(END)[1]}"


def main() -> int:
    """Rewrite the page."""
    README.write_text(updated(README.read_text(encoding="utf-8"), render(RESULTS)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(script(main))
