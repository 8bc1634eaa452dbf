"""What a knowledge base of any size takes, worked out from a recorded run of `benchmarks.bench_knowledge`.

``python -m benchmarks.size_knowledge --passages 21015300 --dim 768`` prints the table; ``--write`` puts the tables into
``benchmarks/large-knowledge-bases.md``, whose example is that size. Every line has its arithmetic.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.options import positive
from benchmarks.report import BenchmarkError
from benchmarks.script import script
from benchmarks.suite import RESULTS

PAGE = RESULTS.parent / "large-knowledge-bases.md"
RECORDS = ("knowledge-1m", "knowledge-200k")
# DPR's Wikipedia: passages, width of the vectors, words of a passage.
WIKIPEDIA = (21_015_300, 768, 100)
# The mean of `passage_source.WORDS`.
MEASURED_WORDS = 80
DEGREES = (16, 32, 64)
MEASURED_DEGREE = 32
# Scale, error and norm of a row of codes, float32 each.
CODED_ROW_BYTES = 12
GIB, MIB = 2**30, 2**20


@dataclass(frozen=True)
class Line:
    """One line of a table.

    Attributes:
        what: is taken.
        value: with its unit.
        how: the arithmetic.
    """

    what: str
    value: str
    how: str


@dataclass(frozen=True)
class Costs:
    """What a passage took in a recorded run.

    Attributes:
        passages, dim: of the run.
        figures: by name, as `benchmarks.bench_knowledge` has them.
    """

    passages: int
    dim: int
    figures: Mapping[str, float]

    def per_passage(self, name: str) -> float:
        """A figure's share of one passage."""
        return self.figures[name] / self.passages

    @property
    def graph_overhead(self) -> float:
        """Bytes a passage of a loaded graph has in memory beyond those it has in the file."""
        private = (self.figures["hnsw_anonymous_mb"] - self.figures["float32_anonymous_mb"]) * MIB
        return (private - self.figures["hnsw_bytes"]) / self.passages


def recorded(path: Path | None = None) -> Costs:
    """The costs of a record; without a path of the largest there is.

    Raises:
        BenchmarkError: there is none.
    """
    paths = [path] if path else [RESULTS / f"{name}.json" for name in RECORDS]
    for found in paths:
        if found.is_file():
            record = json.loads(found.read_text(encoding="utf-8"))
            figures = {name: value for row in record["results"] for name, value in row.items()}
            return Costs(int(figures["passages"]), int(record["dim"]), figures)
    raise BenchmarkError(f"{paths[-1]} is missing: run `python -m benchmarks.suite --record knowledge-200k`")


def graph_bytes(dim: int, degree: int) -> float:
    """Bytes of an element in hnswlib's file.

    The vector, 2 M neighbours on the lowest layer with their count, a label, the size of its upper layers; and of
    those M neighbours with a count on each of the 1 / (M - 1) upper layers that an element has on average.

    >>> [round(graph_bytes(768, degree)) for degree in (16, 32, 64)]
    [3221, 3348, 3604]
    """
    return 4 * dim + 8 * degree + 4 + 8 + 4 + (4 * degree + 4) / (degree - 1)


def sizes(costs: Costs, passages: int, dim: int, words: int) -> list[Line]:
    """Bytes on the disk, and in memory."""
    text, index = costs.figures["text_bytes_per_passage"], costs.per_passage("words_bytes")
    rest = costs.per_passage("record_bytes") - text - index
    longer = words / MEASURED_WORDS
    record = (text + index) * longer + rest
    shown = f"(({text:.0f} text + {index:.0f} BM25) x {words}/{MEASURED_WORDS} words + {rest:.0f} other)"
    lines = [
        _bytes("vectors, float32", passages, 4 * dim, f"{dim} x 4 B"),
        _bytes("codes, float16", passages, 2 * dim + CODED_ROW_BYTES, f"({dim} x 2 + {CODED_ROW_BYTES}) B"),
        _bytes("codes, int8", passages, dim + CODED_ROW_BYTES, f"({dim} + {CODED_ROW_BYTES}) B"),
        _bytes("record: texts, fields, digests, BM25", passages, record, f"{shown} B"),
        _bytes("of which BM25", passages, index * longer, f"{index:.0f} x {words}/{MEASURED_WORDS} B"),
    ]
    for degree in DEGREES:
        each = graph_bytes(dim, degree)
        lines.append(_bytes(f"HNSW, M={degree}, on the disk", passages, each, f"{each:,.0f} B"))
    more = costs.graph_overhead
    for degree in DEGREES:
        each = graph_bytes(dim, degree)
        how = f"({each:,.0f} + {more:.0f} measured) B"
        lines.append(_bytes(f"HNSW, M={degree}, in memory (private)", passages, each + more, how))
    return lines


def times(costs: Costs, passages: int, dim: int) -> list[Line]:
    """Seconds and hours, on the machine of the record."""
    figures = costs.figures
    wider, more = dim / costs.dim, passages / costs.passages
    deeper = math.log(passages) / math.log(costs.passages)
    upsert = costs.per_passage("build_s")
    graph = costs.per_passage("hnsw_build_s")
    check = costs.per_passage("check_s")
    lines = [
        _seconds("upserts, with given vectors", passages * upsert, f"{passages:,} x {upsert * 1e6:.0f} us"),
        _seconds(
            f"HNSW, M={MEASURED_DEGREE}",
            passages * graph * wider * deeper,
            f"{passages:,} x {graph * 1e6:,.0f} us x {dim}/{costs.dim} x ln {passages:,} / ln {costs.passages:,}",
        ),
        _seconds("`index check`", passages * check, f"{passages:,} x {check * 1e6:.0f} us"),
    ]
    for kind in ("float32", "float16", "int8"):
        name = f"{kind}_k10_p50_ms"
        if name in figures:
            how = f"{figures[name]:,.1f} ms x {passages:,}/{costs.passages:,} x {dim}/{costs.dim}, all in memory"
            lines.append(_seconds(f"exact search, {kind}, p50", figures[name] * wider * more / 1e3, how))
    how = (
        f"{figures['hnsw_k10_p50_ms']:,.1f} ms x {dim}/{costs.dim} x ln {passages:,} / ln {costs.passages:,}"
    )
    found = figures["hnsw_k10_p50_ms"] * wider * deeper / 1e3
    return [*lines, _seconds("HNSW search, p50", found, how)]


def measured(costs: Costs) -> list[Line]:
    """What was measured, by passage where that is what it goes by."""
    count, figures = costs.passages, costs.figures
    by_passage = {
        "record_bytes": "record on the disk",
        "words_bytes": "of which BM25",
        "vectors_bytes": "vectors on the disk",
        "hnsw_bytes": f"HNSW on the disk, M={MEASURED_DEGREE}",
    }
    lines = [
        Line(f"{what}, a passage", f"{figures[name] / count:,.0f} B", f"{figures[name]:,.0f} B / {count:,}")
        for name, what in by_passage.items()
    ]
    private = f"{figures['hnsw_anonymous_mb']:,.0f} - {figures['float32_anonymous_mb']:,.0f}"
    how = f"({private}) MiB / {count:,}, less its file"
    lines.append(Line("HNSW in memory beyond its file, a passage", f"{costs.graph_overhead:,.0f} B", how))
    for name, what in (("build_s", "upsert"), ("hnsw_build_s", "HNSW"), ("check_s", "`index check`")):
        lines.append(
            Line(
                f"{what}, a passage",
                f"{figures[name] / count * 1e6:,.0f} us",
                f"{figures[name]:,.1f} s / {count:,}",
            )
        )
    lines.append(
        Line("most resident memory of any process", f"{figures['most_resident_mb']:,.0f} MiB", "VmHWM")
    )
    return lines


def table(lines: Sequence[Line]) -> str:
    """Lines as Markdown."""
    return "\n".join(
        [
            "| what | takes | arithmetic |",
            "|---|---|---|",
            *(f"| {x.what} | {x.value} | {x.how} |" for x in lines),
        ]
    )


def updated(page: str, costs: Costs) -> str:
    """The page with the tables of a record between its marks."""
    parts = {
        "measured": table(measured(costs)),
        "sizes": table(sizes(costs, *WIKIPEDIA)),
        "times": table(times(costs, *WIKIPEDIA[:2])),
    }
    for name, text in parts.items():
        before, rest = page.split(f"<!-- {name} -->")
        page = f"{before}<!-- {name} -->\n\n{text}\n\n<!-- end -->{rest.split('<!-- end -->', 1)[1]}"
    return page


def _bytes(what: str, passages: int, each: float, how: str) -> Line:
    return Line(what, f"{passages * each / GIB:,.1f} GiB", f"{passages:,} x {how}")


def _seconds(what: str, seconds: float, how: str) -> Line:
    for unit, size in (("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if seconds >= size:
            return Line(what, f"{seconds / size:,.1f} {unit}", how)
    return Line(what, f"{seconds * 1e3:,.1f} ms", how)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables, or write them into the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    passages, dim, words = WIKIPEDIA
    parser.add_argument("--passages", type=positive, default=passages, help="default %(default)s")
    parser.add_argument("--dim", type=positive, default=dim, help="of their vectors; default %(default)s")
    parser.add_argument("--words", type=positive, default=words, help="of a passage; default %(default)s")
    parser.add_argument("--result", type=Path, help="a record; default the largest in benchmarks/results/")
    parser.add_argument("--write", action="store_true", help="put the tables into the page")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    arguments: Any = parser.parse_args(argv)
    costs = recorded(arguments.result)
    if arguments.write:
        PAGE.write_text(updated(PAGE.read_text(encoding="utf-8"), costs), encoding="utf-8")
        return 0
    print(f"from a run of {costs.passages:,} passages x {costs.dim}\n")
    print(table(sizes(costs, arguments.passages, arguments.dim, arguments.words)) + "\n")
    print(table(times(costs, arguments.passages, arguments.dim)))
    return 0


if __name__ == "__main__":
    raise SystemExit(script(main))
