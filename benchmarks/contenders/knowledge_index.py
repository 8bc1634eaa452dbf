"""A new process that makes an index of a knowledge base, or drops it: how long, in how much memory, how large."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.contenders.memory import memory
from rag_infer import KnowledgeBase


def main() -> None:
    """Print one line of JSON."""
    given = json.loads(sys.argv[1])
    folder = Path(given["folder"])
    with KnowledgeBase.open(folder, threads=given["threads"], verify="never") as knowledge_base:
        before = memory()
        start = time.perf_counter()
        knowledge_base.build_index(given["kind"], **given["settings"])
        seconds = time.perf_counter() - start
        report: dict[str, Any] = {"s": seconds, "before_mb": before["anonymous_mb"], **memory()}
        report["bytes"] = sum(p.stat().st_size for p in folder.glob(f"{given['part']}/**/*") if p.is_file())
        report["indexed"] = knowledge_base.info()["search"] == "hnsw"
    print(json.dumps(report))


if __name__ == "__main__":
    main()
