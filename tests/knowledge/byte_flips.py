"""Flips bytes of a knowledge base's files, and looks at what a reader then gets.

Either what was written, or a typed error: never a crash, never another passage. ``python -m
tests.knowledge.byte_flips --every`` flips every byte, one bit of it, and takes long; ``--flips 2000`` random ones;
``--images`` of a knowledge base with images.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rag_infer.errors import RagInferError
from rag_infer.images import Image
from rag_infer.knowledge import KnowledgeBase, Passage
from rag_infer.knowledge.image_files import IMAGES
from rag_infer.query import Query
from tests.knowledge.encoders import HashingEncoder
from tests.knowledge.seeing import SeeingEncoder, picture, picture_file

Flip = tuple[Path, int, int]
QUESTIONS = ["word3 text", "word17", "text"]
# Flips that one child process tries: should it crash, the last one it began is to blame.
FLIPS_PER_PROCESS = 200


def main() -> int:
    """Print a line of JSON with the outcomes; 1 where one is neither harmless nor a typed error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flips", type=int, default=2000)
    parser.add_argument("--every", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kb = (build_with_images if arguments.images else build)(Path(folder) / "kb")
        chance = random.Random(arguments.seed)
        flips = list(every_byte(kb, chance))
        if not arguments.every:
            flips = [
                flips[i] for i in sorted(chance.sample(range(len(flips)), min(arguments.flips, len(flips))))
            ]
        report = try_flips(kb, flips, Path(folder))
    print(json.dumps(report))
    return 1 if report["wrong"] else 0


def build(path: Path) -> Path:
    """A small knowledge base with everything: an index, dead rows, metadata, and commits in the log."""
    with KnowledgeBase.create(path, encoder=HashingEncoder(), rows_per_segment=16, threads=1) as kb:
        kb.upsert(
            [Passage(f"p{i}", f"word{i} text", metadata={"odd": i % 2, "name": f"n{i}"}) for i in range(40)]
        )
        kb.build_index("hnsw")
        kb.delete(["p5", "p6"])
    changed = Passage("p7", "word7 changed", metadata={"odd": 1})
    _upsert_and_end(path, [changed, Passage("new", "word99 text")])
    return path


def build_with_images(path: Path) -> Path:
    """The same with images: alone, beside texts and referenced, and with what is known of all their vectors."""
    elsewhere = picture_file(path.parent, "grey")
    with KnowledgeBase.create(path, encoder=SeeingEncoder(), rows_per_segment=16, threads=1) as kb:
        metadata = [{"odd": i % 2, "name": f"n{i}"} for i in range(40)]
        kb.upsert([Passage(f"p{i}", f"word{i} text", metadata=metadata[i]) for i in range(20)])
        kb.upsert(
            [Passage(f"p{i}", "", image=picture("red", i), metadata=metadata[i]) for i in range(20, 30)]
        )
        kb.upsert(
            [Passage(f"p{i}", f"word{i}", image=picture("blue"), metadata=metadata[i]) for i in range(30, 39)]
        )
        kb.upsert([Passage("p39", "word39", image=Image.reference(elsewhere))])
        kb.delete(["p5", "p21"])
        kb.search("text", center=True)  # counts the moments
    _upsert_and_end(path, [Passage("p7", "", image=picture("green")), Passage("new", "word99 text")])
    return path


def _upsert_and_end(path: Path, passages: Sequence[Passage]) -> None:
    """In a process that ends without closing, which leaves the log behind."""
    if os.fork() == 0:
        kb = KnowledgeBase.open(path, encoder=encoder_of(path), threads=1)
        kb.upsert(passages)
        os._exit(0)
    os.wait()


def encoder_of(kb: Path) -> HashingEncoder:
    """The encoder with which it was built."""
    return SeeingEncoder() if (kb / IMAGES).is_dir() else HashingEncoder()


def every_byte(kb: Path, chance: random.Random) -> Iterator[Flip]:
    """A flip of one random bit in each byte of each file."""
    for path in sorted(p for p in kb.rglob("*") if p.is_file() and not p.name.endswith("-shm")):
        for at in range(path.stat().st_size):
            yield path.relative_to(kb), at, 1 << chance.randrange(8)


def answers(path: Path, verify: str = "wait") -> dict[str, Any]:
    """All that a reader is told."""
    with KnowledgeBase.open(path, encoder=encoder_of(path), threads=1, verify=verify) as kb:
        everything = kb.get([*(f"p{i}" for i in range(40)), "new"])
        found = {
            "nearest": [kb.search(QUESTIONS, k) for k in (5, 100)],
            "odd": kb.search(QUESTIONS, 100, where={"odd": 1}),
            "ranged": kb.search(QUESTIONS, 100, where={"name": {"$gte": "n2", "$lt": "n3"}}),
            "by words": kb.search(QUESTIONS, 100, mode="lexical"),
        }
        if (path / IMAGES).is_dir():
            questions = [Query(image=picture("red")), Query("word3", picture("blue"))]
            found["images"] = kb.search(questions, 100)
            found["centred"] = kb.search(questions, 100, center=True)
            found["files"] = [
                p.image.read_bytes() for p in everything if p is not None and p.image is not None
            ]
        return {"passages": everything, **found, "count": len(kb), "revision": kb.revision}


def try_flips(kb: Path, flips: Sequence[Flip], folder: Path) -> dict[str, Any]:
    """Counts of outcomes, and what was wrong."""
    copy = folder / "copy"
    shutil.copytree(kb, copy)
    expected = answers(copy)
    outcomes: Counter[str] = Counter()
    wrong: list[str] = []
    for start in range(0, len(flips), FLIPS_PER_PROCESS):
        log = folder / "outcomes"
        log.write_text("")
        some = flips[start : start + FLIPS_PER_PROCESS]
        child = os.fork()
        if child == 0:
            _in_child(kb, some, folder / "flipped", expected, log)
        _, status = os.waitpid(child, 0)
        lines = log.read_text().splitlines()
        outcomes.update(line for line in lines if line in ("harmless", "error"))
        wrong += [line for line in lines if line not in ("harmless", "error")]
        if status != 0 or len(lines) != len(some):
            flip = some[min(len(lines), len(some) - 1)]
            wrong.append(f"{flip}: the process ended with {os.waitstatus_to_exitcode(status)}")
    return {"flips": len(flips), **outcomes, "wrong": wrong}


def _in_child(kb: Path, flips: Sequence[Flip], copy: Path, expected: dict[str, Any], log: Path) -> None:
    warnings.simplefilter("ignore")  # that a damaged index was made anew is said by a warning
    try:
        with log.open("a") as stream:
            for flip in flips:
                shutil.rmtree(copy, ignore_errors=True)
                shutil.copytree(kb, copy)
                stream.write(_outcome(copy, flip, expected) + "\n")
                stream.flush()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def _outcome(copy: Path, flip: Flip, expected: dict[str, Any]) -> str:
    path, at, bit = flip
    data = np.memmap(copy / path, dtype=np.uint8, mode="r+")
    data[at] ^= bit
    data.flush()
    del data
    try:
        found = answers(copy)
    except RagInferError:
        return "error"
    except Exception as error:
        return f"{flip}: {type(error).__name__}: {error}".replace("\n", " ")
    if found == expected:
        return "harmless"
    differing = [name for name in expected if found[name] != expected[name]]
    return f"{flip}: other {differing}"


if __name__ == "__main__":
    raise SystemExit(main())
