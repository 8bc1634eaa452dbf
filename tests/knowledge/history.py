"""A history of changes that anyone can replay: change number n is the same for whoever makes it."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np

from rag_infer.errors import RagInferError
from rag_infer.knowledge import KnowledgeBase, Passage
from tests.knowledge.encoders import HashingEncoder

IDS = [f"p{i}" for i in range(40)]

Contents = dict[str, Passage]


def encoder() -> HashingEncoder:
    return HashingEncoder(similarity="cosine")


def passage(id_: str, change: int) -> Passage:
    return Passage(
        id_,
        f"{id_} written{change}",
        title=f"t{change % 3}",
        metadata={"change": change, "third": change % 3},
    )


def make(kb: KnowledgeBase, change: int) -> None:
    """Make a change."""
    kind, ids = _plan(change)
    actions: dict[str, Callable[[], object]] = {
        "upsert": lambda: kb.upsert([passage(i, change) for i in ids]),
        "delete": lambda: kb.delete(ids),
        "describe": lambda: kb.update_metadata({i: {"third": change} for i in ids}),
        "compact": kb.compact,
        "hnsw": lambda: kb.build_index("hnsw"),
        "exact": lambda: kb.build_index("exact"),
    }
    actions[kind]()


def replay(contents: Contents, change: int) -> Contents:
    """What is there after a change."""
    kind, ids = _plan(change)
    after = dict(contents)
    if kind == "upsert":
        after |= {i: passage(i, change) for i in ids}
    elif kind == "delete":
        after = {i: p for i, p in after.items() if i not in ids}
    elif kind == "describe":
        for i in set(ids) & after.keys():
            old = after[i]
            after[i] = Passage(i, old.text, old.title, {**old.metadata, "third": change})
    return after


def difference(kb: KnowledgeBase, contents: Contents) -> str:
    """What of a knowledge base is not as expected, or ""; every passage is found with its right vector."""
    there = {p.id: p for p in kb.get(IDS) if p is not None}
    if there != contents or len(kb) != len(contents):
        return f"{sorted(there.items())} where {sorted(contents.items())} was expected"
    if not contents:
        return ""
    texts = [f"{p.title}. {p.text}" for p in contents.values()]
    vectors = encoder().encode(texts)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = kb.search_vectors(vectors, len(contents))
    expected = vectors.astype(np.float64) @ vectors.astype(np.float64).T
    names = list(contents)
    for i, hits in enumerate(found):
        scores = {p.id: p.score for p in hits}
        if (
            scores.keys() != contents.keys()
            or max(abs(scores[n] - expected[i, j]) for j, n in enumerate(names)) > 1e-5
        ):
            return f"a search for {names[i]} gave {scores}"
    for third in range(3):
        wanted = {i for i, p in contents.items() if p.metadata["third"] == third}
        hits = kb.search_vectors(vectors[:1], 100, where={"third": {"$in": [third]}})[0] if wanted else []
        if {p.id for p in hits} != wanted:
            return f"third = {third} gave {[p.id for p in hits]}, expected {sorted(wanted)}"
    try:
        kb.check()
    except RagInferError as error:
        return f"check: {error}"
    return ""


def _plan(change: int) -> tuple[str, list[str]]:
    chance = random.Random(change)
    (kind,) = chance.choices(
        ["upsert", "delete", "describe", "compact", "hnsw", "exact"], weights=[8, 3, 3, 2, 2, 1]
    )
    return kind, chance.sample(IDS, chance.randint(1, 12))
