"""Every fusion against a slow twin that looks at each passage by itself; and what fusions are for."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rag_infer.errors import CorruptIndexError, KnowledgeBaseError
from rag_infer.images import Image
from rag_infer.knowledge import KnowledgeBase, Passage, SearchConfig
from rag_infer.knowledge.modalities import Space, terms
from rag_infer.query import Query
from tests.knowledge.seeing import COLOURS, ApartEncoder, SeeingEncoder, picture

FUSIONS = ("concat", "weighted_average", "score", "rrf", "max")
PASSAGES = [
    Passage(
        f"p{i}",
        ("", f"a {colour} thing {i}", f"some {colour} of number {i}")[i % 3],
        image=(picture(colour, i), None, picture(colour, i))[i % 3],
        metadata={"number": i},
    )
    for i, colour in enumerate(list(COLOURS) * 15)
]
QUERIES = [
    Query("red thing"),
    Query(image=picture("blue", 40)),
    Query("green", picture("green", 41)),
    Query("grey thing", picture("red", 42)),
    Query("number 7"),
]


@pytest.fixture(params=[SeeingEncoder, ApartEncoder])
def encoder(request: pytest.FixtureRequest) -> SeeingEncoder:
    made: SeeingEncoder = request.param()
    return made


@pytest.fixture
def kb(tmp_path: Path, encoder: SeeingEncoder) -> Iterator[KnowledgeBase]:
    with KnowledgeBase.create(tmp_path / "kb", encoder=encoder, threads=1) as made:
        made.upsert([Passage("gone", "red", image=picture("red", 50)), *PASSAGES])
        made.delete(["gone"])
        yield made


def unit(vector: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = vector.astype(np.float64)
    length: NDArray[np.float64] = wide / np.linalg.norm(wide)
    return length


class Twin:
    """Scores passages one by one, as the formulas say it."""

    def __init__(self, encoder: SeeingEncoder, passages: Sequence[Passage]) -> None:
        self.encoder = encoder
        self.stored = {p.id: self.vectors(p.text, p.image) for p in passages}
        self.mean, self.spread = {}, {}
        for m in "tv":
            there = np.array([v[m] for v in self.stored.values() if m in v])
            self.mean[m] = there.mean(axis=0)
            self.spread[m] = float(np.sqrt(((there - self.mean[m]) ** 2).mean()))

    def vectors(self, text: str, image: Any) -> dict[str, NDArray[np.float64]]:
        found = {}
        if text:
            found["t"] = unit(self.encoder.encode([text])[0])
        if image is not None:
            found["v"] = unit(self.encoder.encode_images([image])[0])
        return found

    def ranked(self, query: Query, config: SearchConfig) -> list[tuple[str, float]]:
        asked = self.vectors(query.text, query.image)
        if config.fusion == "rrf":
            scored = self.reciprocal(asked, config)
        else:
            scored = {i: s for i, x in self.stored.items() if (s := self.score(asked, x, config)) is not None}
        return sorted(scored.items(), key=lambda pair: -pair[1])

    def similarity(self, m: str, n: str, q: Any, x: Any, config: SearchConfig) -> float:
        q, mean = (q[m] - self.mean[m], self.mean[n]) if config.center else (q[m], 0.0 * self.mean[n])
        found = float(q @ (x[n] - mean))
        if config.fusion == "score":
            expected = float(q @ (self.mean[n] - mean))
            return (found - expected) / (self.spread[n] * float(np.linalg.norm(q)))
        return found

    def score(self, q: Any, x: Any, config: SearchConfig) -> float | None:
        share = {"t": config.alpha, "v": 1 - config.alpha}
        same = [m for m in "tv" if m in q and m in x]
        pairs = [(m, m) for m in same]
        if not pairs and self.encoder.shared_space:
            pairs = [(m, n) for m in q for n in x]
        if config.fusion == "concat":
            total = sum(share[m] for m in q)
            return sum(share[m] * self.similarity(m, m, q, x, config) for m in same) / total if same else None
        if config.fusion == "weighted_average":
            left = {m: q[m] - (self.mean[m] if config.center else 0) for m in q}
            right = {n: x[n] - (self.mean[n] if config.center else 0) for n in x}
            a = sum(share[m] * left[m] for m in q) / sum(share[m] for m in q)
            b = sum(share[n] * right[n] for n in x) / sum(share[n] for n in x)
            return float(a @ b)
        if config.fusion == "max":
            each = [(n if n in q else next(iter(q)), n) for n in x]
            pairs = [(m, n) for m, n in each if m == n or self.encoder.shared_space]
            return max((self.similarity(m, n, q, x, config) for m, n in pairs), default=None)
        if not pairs:
            return None
        found = [(share[n], self.similarity(m, n, q, x, config)) for m, n in pairs]
        return sum(w * s for w, s in found) / sum(w for w, _ in found)

    def reciprocal(self, q: Any, config: SearchConfig) -> dict[str, float]:
        weights: dict[str, float] = {}
        lists = []
        for n, share in (("t", config.alpha), ("v", 1 - config.alpha)):
            m = n if n in q else next(iter(q))
            if m != n and not self.encoder.shared_space:
                continue
            scores = {i: self.similarity(m, n, q, x, config) for i, x in self.stored.items() if n in x}
            lists.append((share, sorted(scores, key=lambda i: -scores[i])))
        for share, ranked in lists:
            for rank, i in enumerate(ranked[: config.candidates], 1):
                part = (share if len(lists) > 1 else 1.0) / (config.rank_constant + rank)
                weights[i] = weights.get(i, 0.0) + part
        return {i: float(np.log(w)) for i, w in weights.items()}


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_fusions_are_their_formulas(
    kb: KnowledgeBase, encoder: SeeingEncoder, fusion: str, center: bool
) -> None:
    twin = Twin(encoder, PASSAGES)
    for alpha in (0.5, 0.2):
        config = SearchConfig(fusion=fusion, alpha=alpha, center=center)
        if fusion == "weighted_average" and not encoder.shared_space:
            with pytest.raises(KnowledgeBaseError, match="which are not in one space here: use concat"):
                kb.search(QUERIES, k=10, search=config)
            continue
        for query, found in zip(QUERIES, kb.search(QUERIES, k=20, search=config), strict=True):
            expected = twin.ranked(query, config)[:20]
            scores = [s for _, s in expected]
            np.testing.assert_allclose([p.score for p in found], scores, rtol=2e-5, atol=2e-5)
            wanted = dict(expected)
            differing = [p for p in found if p.id not in wanted]  # only ties with the last may change places
            assert all(abs(p.score - scores[-1]) < 1e-4 for p in differing)


def test_means_are_kept_with_the_revision_they_are_of(kb: KnowledgeBase, encoder: SeeingEncoder) -> None:
    config = SearchConfig(fusion="score", center=True)
    before = kb.search(QUERIES, k=10, search=config)
    assert kb.info()["means_of_revision"] is None
    kb.build_index()
    assert kb.info()["means_of_revision"] == kb.revision == 2
    assert kb.search(QUERIES, k=10, search=config) == before
    kb.upsert([Passage(f"new{i}", f"purple {i}") for i in range(30)])
    assert kb.info()["means_of_revision"] == 2
    kept = {p.id: p.score for p in before[0]}
    again = {p.id: p.score for p in kb.search(QUERIES[0], k=10, search=config)}
    assert all(again[i] == kept[i] for i in again if i in kept), "the means are those of revision 2"
    kb.build_index()
    assert kb.info()["means_of_revision"] == 3
    twin = Twin(encoder, [*PASSAGES, *(Passage(f"new{i}", f"purple {i}") for i in range(30))])
    found = kb.search(QUERIES[0], k=5, search=config)
    expected = [s for _, s in twin.ranked(QUERIES[0], config)[:5]]
    np.testing.assert_allclose([p.score for p in found], expected, rtol=2e-5, atol=2e-5)


def test_texts_find_images_and_images_find_texts(tmp_path: Path) -> None:
    with KnowledgeBase.create(tmp_path / "kb", encoder=SeeingEncoder(), threads=1) as kb:
        kb.upsert(p for p in PASSAGES if not (p.text and p.image))
        for colour in COLOURS:
            for query in (Query(colour), Query(image=picture(colour, 60))):
                for settings in ({"fusion": "rrf"}, {"fusion": "score"}, {"center": True}):
                    found = kb.search(query, k=6, **settings)
                    kinds = {(bool(p.text), p.image is not None) for p in found}
                    assert len(kinds) > 1, f"{colour}, {settings}: both kinds are among the first"
                    right = [p for p in found if colour in p.text or _colour(p) == colour]
                    assert len(right) >= 5, (colour, settings, [p.id for p in found])


def _colour(passage: Passage) -> str:
    return list(COLOURS)[int(passage.id[1:]) % len(COLOURS)]


def test_conditions_hold_in_every_fusion(kb: KnowledgeBase, encoder: SeeingEncoder) -> None:
    for fusion in FUSIONS:
        if fusion == "weighted_average" and not encoder.shared_space:
            continue
        for query in QUERIES:
            all_of_them = kb.search(query, k=60, fusion=fusion, candidates=60)
            some = kb.search(query, k=60, fusion=fusion, candidates=60, where={"number": {"$lt": 20}})
            assert {p.id for p in some} == {p.id for p in all_of_them if p.metadata["number"] < 20}
            if fusion != "rrf":  # whose ranks are among what is found
                scores = {p.id: p.score for p in all_of_them}
                for passage in some:
                    assert abs(passage.score - scores[passage.id]) < 1e-5


def test_words_and_images(kb: KnowledgeBase) -> None:
    found = kb.search(Query("number 7"), k=3, mode="lexical")
    assert [p.id for p in found if "7" in p.text]
    both = kb.search(Query("number 7", picture("red")), k=3, mode="hybrid", fusion="reciprocal_rank")
    assert len(both) == 3
    question, near = Query("number 7", picture("red")), kb.search(Query("number 7", picture("red")), k=60)
    hybrid = kb.search(question, k=60, mode="hybrid", fusion="reciprocal_rank", alpha=1.0, candidates=60)
    assert [p.id for p in hybrid[:60]] == [p.id for p in near], (
        "by the vectors alone, of text and image alike"
    )
    with pytest.raises(KnowledgeBaseError, match="use fusion 'reciprocal_rank' in a hybrid search"):
        kb.search("number 7", mode="hybrid")
    with pytest.raises(ValueError, match="needs words: this question is an image alone"):
        kb.search(Query(image=picture("red")), mode="lexical")
    with pytest.raises(ValueError, match="fusion must be one of"):
        SearchConfig(mode="hybrid", fusion="concat")


def test_an_hnsw_index_serves_texts_and_images(tmp_path: Path) -> None:
    with KnowledgeBase.create(tmp_path / "kb", encoder=SeeingEncoder(), index="hnsw", threads=1) as kb:
        kb.upsert([Passage(f"p{i}", f"thing {i}", image=picture("red", i)) for i in range(60)])
        exact = kb.search(QUERIES, k=5)
        kb.build_index()
        assert kb.info()["search"] == "hnsw"
        again = kb.search(QUERIES, k=5)
        assert [[p.id for p in found] for found in again] == [[p.id for p in found] for found in exact]


@pytest.mark.parametrize("fusion", ["score", "max", "weighted_average"])
def test_shares_are_of_what_is_there(fusion: str) -> None:
    space = Space(4, 4, True, dict)
    for asked in (["text"], ["image"], ["text", "image"]):
        for stored in (["text"], ["image"], ["text", "image"]):
            for alpha in (0.0, 0.3, 1.0):
                parts = terms(fusion, asked, stored, space, alpha)
                assert abs(sum(part.weight for part in parts) - 1) < 1e-12


def test_means_of_what_was_not_there_yet_are_counted(tmp_path: Path) -> None:
    """Built with texts alone; what the images' vectors are like is not known from that."""
    with KnowledgeBase.create(tmp_path / "kb", encoder=SeeingEncoder(), threads=1) as kb:
        kb.upsert([p for p in PASSAGES if p.image is None])
        kb.build_index()
        kb.upsert([p for p in PASSAGES if p.image is not None])
        before = kb.search(QUERIES, k=5, fusion="score")
        kb.build_index()
        after = kb.search(QUERIES, k=5, fusion="score")
        assert [[p.id for p in f] for f in before] == [[p.id for p in f] for f in after]


def test_means_of_what_is_gone_are_not_used(tmp_path: Path) -> None:
    with KnowledgeBase.create(tmp_path / "kb", encoder=SeeingEncoder(), threads=1) as kb:
        kb.upsert(PASSAGES)
        kb.build_index()
        kb.delete([p.id for p in PASSAGES])
        others = [replace(p, id=f"new{i}") for i, p in enumerate(PASSAGES) if p.metadata["number"] % 4 == 1]
        kb.upsert(others)
        question = Query("green", picture("green", 41))
        found = kb.search(question, k=5, center=True)
        kb.build_index()
        assert kb.info()["means_of_revision"] == kb.revision
        assert kb.search(question, k=5, center=True) == found
        kb.delete([p.id for p in others])
        kb.upsert(PASSAGES)
        kb.compact()
        assert kb.info()["means_of_revision"] == kb.revision, "it knows no more which rows were deleted"


def test_a_compaction_that_ends_before_it_counts_leaves_no_means(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise KnowledgeBaseError("the disk is full")

    with KnowledgeBase.create(tmp_path / "kb", encoder=SeeingEncoder(), threads=1) as kb:
        kb.upsert(PASSAGES)
        kb.build_index()
        assert kb.info()["means_of_revision"] == 1
        kb.delete([p.id for p in PASSAGES[:50]])
        monkeypatch.setattr("rag_infer.knowledge.changes.write_moments", full)
        kb.compact()
        assert kb.info()["dead_rows"] == 0
        assert kb.info()["means_of_revision"] is None, "they are counted when they are needed"


def test_damaged_means_are_told_and_mended(tmp_path: Path) -> None:
    encoder = SeeingEncoder()
    with KnowledgeBase.create(tmp_path / "kb", encoder=encoder, threads=1) as kb:
        kb.upsert(PASSAGES)
        kb.build_index()
        expected = kb.search(QUERIES, k=5, fusion="score")
    for mend in (
        lambda: kb.build_index(),
        lambda: KnowledgeBase.repair(tmp_path / "kb", encoder=encoder),
    ):
        with sqlite3.connect(tmp_path / "kb" / "record.sqlite") as connection:
            connection.execute("UPDATE moments SET spread = zeroblob(8)")
        connection.close()
        with KnowledgeBase.open(tmp_path / "kb", encoder=encoder, threads=1) as kb:
            with pytest.raises(CorruptIndexError, match="says of all vectors of modality"):
                kb.check()
            mend()
            assert kb.check().passages == len(PASSAGES)
            assert kb.search(QUERIES, k=5, fusion="score") == expected


def test_given_vectors_are_of_the_parts(tmp_path: Path) -> None:
    encoder = SeeingEncoder()
    with KnowledgeBase.create(tmp_path / "kb", encoder=encoder, threads=1) as kb:
        texts = encoder.encode(["red", "blue"])
        images = encoder.encode_images([Image.of(picture("red")), Image.of(picture("blue"))])
        vectors = np.concatenate([7 * texts, 9 * images], axis=1)
        kb.upsert(
            [Passage("r", "red", image=picture("red")), Passage("b", "blue", image=picture("blue"))], vectors
        )
        (found,) = kb.search([Query("red", picture("red"))], k=1, fusion="concat")
        assert found[0].id == "r"
        assert abs(found[0].score - 1) < 1e-5, "each part has length 1"
        with pytest.raises(
            ValueError, match="passage 't' has no image, and its vector has a part for one: give zeros"
        ):
            kb.upsert([Passage("t", "red")], vectors[:1])
        with pytest.raises(ValueError, match="passage 'i' has no text"):
            kb.upsert([Passage("i", "", image=picture("red"))], vectors[:1])
        kb.build_index("hnsw", queries=["red", "blue"])
        assert kb.info()["recall_source"] == "given"
