"""Readers in other processes search without a failure while a writer adds, deletes, compacts and indexes.

RAG_INFER_TEST_SECONDS says for how long; the closing note's figure is of minutes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rag_infer.knowledge import KnowledgeBase, Passage
from tests.knowledge.reading_process import STEADY

ROOT = Path(__file__).parents[2]
SECONDS = float(os.environ.get("RAG_INFER_TEST_SECONDS", "15"))


def steady(number: int) -> list[Passage]:
    return [
        Passage(f"p{i}", f"item{i} steady", metadata={"round": number, "steady": 1}) for i in range(STEADY)
    ]


@pytest.mark.slow
def test_readers_never_notice_the_writer(kb: KnowledgeBase) -> None:
    kb.upsert(steady(0))
    command = [sys.executable, "-m", "tests.knowledge.reading_process", str(kb.folder), str(SECONDS)]
    readers = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    end = time.monotonic() + SECONDS
    changes = 0
    while time.monotonic() < end:
        changes += 1
        _change(kb, changes)
    for reader in readers:
        said, errors = reader.communicate(timeout=120)
        assert reader.returncode == 0, errors
        report = json.loads(said)
        print(f"{changes} changes, a reader: {report}")
        assert report["searches"] > 10
        assert report["revisions"] > 3
    kb.check()


def _change(kb: KnowledgeBase, number: int) -> None:
    if number % 2:
        # In place where the texts are the same, or in new rows where they are not.
        words = "steady" if number % 4 == 1 else "steady steady"
        kb.upsert(
            [Passage(p.id, p.text.replace("steady", words), metadata=p.metadata) for p in steady(number)]
        )
    kb.upsert([Passage(f"x{number}-{i}", f"item{i} extra{number}", metadata={"round": 0}) for i in range(20)])
    if number > 3:
        kb.delete([f"x{number - 3}-{i}" for i in range(20)])
    if number % 5 == 0:
        kb.compact()
    if number % 7 == 0:
        kb.build_index("hnsw" if number % 2 else "exact")
