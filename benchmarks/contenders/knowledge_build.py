"""A new process that makes a knowledge base of many passages, each batch one commit; says how long and how large."""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.contenders.memory import memory
from benchmarks.passage_source import PASSAGES, source
from rag_infer import KnowledgeBase


class GivenVectors:
    """The encoder of a knowledge base whose vectors are given with the passages."""

    similarity, fingerprint, max_length = "cosine", "given", 512

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Nothing is encoded here."""
        raise NotImplementedError(f"{len(texts)} texts without vectors")


def main() -> None:
    """Print one line of JSON."""
    given = json.loads(sys.argv[1])
    passages_from = source(given["dim"], seed=given["seed"], demo=given["demo"])
    folder, batch = Path(given["folder"]), given["batch"]
    upserting = text_bytes = 0.0
    with KnowledgeBase.create(
        folder, encoder=GivenVectors(given["dim"]), index="exact", threads=given["threads"]
    ) as knowledge_base:
        before = memory()
        for number in range(given["passages"] // batch):
            passages, vectors = passages_from.passages(PASSAGES, number, batch)
            text_bytes += sum(len(p.text) + len(p.title) for p in passages)
            start = time.perf_counter()
            knowledge_base.upsert(passages, vectors)
            upserting += time.perf_counter() - start
        held = memory()
        there = len(knowledge_base)
    report = {
        "passages": there,
        "build_s": upserting,
        "build_passages_per_s": there / upserting,
        "text_bytes_per_passage": text_bytes / there,
        "before_mb": before["anonymous_mb"],
        **{f"build_{name}": value for name, value in held.items()},
        **{f"{name}_bytes": size for name, size in part_sizes(folder).items()},
    }
    print(json.dumps(report))


def part_sizes(folder: Path) -> dict[str, int]:
    """Bytes of the vectors, of the record, and of the index of words within the record."""
    with closing(sqlite3.connect(folder / "record.sqlite")) as connection:
        words = "SELECT (SELECT sum(length(block)) FROM lexical_data) + (SELECT sum(length(sz)) FROM lexical_docsize)"
        fields: dict[str, Any] = {"words": int(connection.execute(words).fetchone()[0])}
    fields["record"] = sum(p.stat().st_size for p in folder.glob("record.sqlite") if p.is_file())
    fields["vectors"] = sum(p.stat().st_size for p in (folder / "vectors").glob("*.f32"))
    return fields


if __name__ == "__main__":
    main()
