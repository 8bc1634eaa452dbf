"""What holds of every knowledge base, wherever it lies: in a folder, in PostgreSQL, in Qdrant."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from rag_infer import _kernels
from rag_infer.errors import EncoderMismatchError, KnowledgeBaseError
from rag_infer.knowledge import KnowledgeBase, Passage, Upserted
from rag_infer.knowledge.backends import pieces
from rag_infer.knowledge.conditions import matches, parse
from tests.knowledge.encoders import HashingEncoder

PASSAGES = [
    Passage("a", "the cat sat on the mat", title="Cats", metadata={"topic": "Animals", "year": 2020}),
    Passage("b", "dogs chase the cat", metadata={"topic": "Animals", "year": 1999.5}),
    Passage("c", "rivers run to the sea", metadata={"topic": "Places", "tags": ["water", {"deep": True}]}),
]


def vectors_of(count: int, dim: int = 16, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((count, dim), dtype=np.float32)


def numbered(count: int) -> list[Passage]:
    return [Passage(f"p{i}", f"text {i}", metadata={"number": i, "odd": i % 2 == 1}) for i in range(count)]


def test_what_is_written_is_read_after_reopening(
    kind: str, place: Callable[[str], str], encoder: HashingEncoder
) -> None:
    here = place(kind)
    with KnowledgeBase.create(here, encoder=encoder) as kb:
        assert (len(kb), kb.revision, kb.search("anything")) == (0, 0, [])
        assert kb.upsert(PASSAGES) == Upserted(added=3)
        assert kb.revision == 1
    with KnowledgeBase.open(here, encoder=encoder) as kb:
        assert isinstance(kb, KnowledgeBase)
        assert len(kb) == 3
        assert kb.get(["c", "nobody", "a"]) == [PASSAGES[2], None, PASSAGES[0]]
        best = kb.search("dogs chase the cat", k=1)[0]
        assert (best.id, best.text, best.metadata) == ("b", PASSAGES[1].text, PASSAGES[1].metadata)
        assert kb.check().passages == 3


def test_same_contents_are_no_work(kb: KnowledgeBase, encoder: HashingEncoder) -> None:
    kb.upsert(PASSAGES)
    encoded = encoder.encoded
    assert kb.upsert(PASSAGES) == Upserted(unchanged=3)
    assert (kb.revision, encoder.encoded) == (1, encoded)
    changed = Passage("a", "another text", title="Cats", metadata={"topic": "Animals", "year": 2020})
    assert kb.upsert([changed, *PASSAGES[1:]]) == Upserted(replaced=1, unchanged=2)
    assert (kb.revision, encoder.encoded, len(kb), kb.get(["a"])) == (2, encoded + 1, 3, [changed])
    assert kb.search("another text", k=1)[0].id == "a"
    kb.check()


def test_what_would_be_encoded(kb: KnowledgeBase, encoder: HashingEncoder) -> None:
    kb.upsert(PASSAGES[:2])
    encoded = encoder.encoded
    assert kb.foresee([*PASSAGES, Passage("a", "other")]) == [[PASSAGES[2], Passage("a", "other")]]
    assert kb.foresee(PASSAGES[:2]) == []
    assert (encoder.encoded, len(kb)) == (encoded, 2)


def test_of_equal_ids_in_one_call_the_last_counts(kb: KnowledgeBase) -> None:
    assert kb.upsert([Passage("x", "old"), Passage("y", "other"), Passage("x", "new")]) == Upserted(added=2)
    assert [p.text for p in kb.get(["x"]) if p] == ["new"]


def test_deleted_passages_are_gone(kb: KnowledgeBase) -> None:
    kb.upsert(PASSAGES)
    assert kb.delete(["b", "nobody", "b"]) == ["b"]
    assert (len(kb), kb.get(["b"]), kb.revision) == (2, [None], 2)
    assert sorted(p.id for p in kb.search("dogs chase the cat", k=5)) == ["a", "c"]
    assert kb.delete(["b"]) == []
    assert kb.revision == 2
    assert kb.upsert([PASSAGES[1]]) == Upserted(added=1)
    assert kb.search("dogs chase the cat", k=1)[0].id == "b"
    assert kb.upsert([]) == Upserted()


def test_passages_are_deleted_by_metadata(kb: KnowledgeBase) -> None:
    kb.upsert(PASSAGES)
    assert kb.delete(["c"], where={"year": {"$gte": 2000}}) == ["c", "a"]
    assert (len(kb), kb.revision) == (1, 2)
    assert kb.delete(where={"year": {"$gt": 3000}}) == []
    assert kb.delete(["b"], where={"topic": "Animals"}) == ["b"]
    assert (len(kb), kb.revision) == (0, 3)
    kb.upsert(numbered(600), vectors_of(600))
    assert kb.delete(where={"odd": True}) == [f"p{i}" for i in range(1, 600, 2)]
    assert (len(kb), kb.check().passages) == (300, 300)
    with pytest.raises(ValueError, match="where is empty"):
        kb.delete(where={})
    with pytest.raises(TypeError, match="where must be a mapping"):
        kb.delete(where="odd")  # type: ignore[arg-type]
    assert len(kb) == 300


def test_a_metadata_change_is_refused_whole(kb: KnowledgeBase) -> None:
    kb.upsert(PASSAGES)
    megabyte = {"more": "x" * 999_985}  # too many with what is there
    for bad, error in (({"x": {1}}, TypeError), ({"x": float("nan")}, ValueError), (megabyte, ValueError)):
        with pytest.raises(error):
            kb.update_metadata({"a": {"year": 1}, "b": bad})
        with pytest.raises(error):
            kb.update_metadata({"a": {"year": 1}, "nobody": {**bad, "y": "x" * 999_950}})
    assert (kb.get(["a"]), kb.revision) == ([PASSAGES[0]], 1)
    with pytest.raises(TypeError, match="changes must be a mapping"):
        kb.update_metadata([("a", {"year": 1})])  # type: ignore[arg-type]


def test_many_values(kb: KnowledgeBase) -> None:
    vectors = vectors_of(300)
    kb.upsert(numbered(300), vectors)
    asked = [*range(250, 1000), None, "text", [1], True]
    found = kb.search_vectors(vectors[:1], 300, where={"number": {"$in": asked}})[0]
    assert {p.id for p in found} == {f"p{i}" for i in range(250, 300)}
    found = kb.search_vectors(vectors[:1], 300, where={"number": {"$nin": asked}})[0]
    assert {p.id for p in found} == {f"p{i}" for i in range(250)}


def test_an_id_that_comes_again_in_a_later_piece_is_counted_once(
    kb: KnowledgeBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "PASSAGES_PER_PIECE", 4)
    kb.upsert([Passage("p1", "old")])
    several = [*numbered(8), Passage("p1", "newer"), Passage("p2", "newer"), Passage("p2", "newest")]
    assert kb.upsert(iter(several)) == Upserted(added=7, replaced=1)
    assert [p.text for p in kb.get(["p1", "p2"]) if p] == ["newer", "newest"]


def test_scores_and_order_are_the_kernels(kb: KnowledgeBase) -> None:
    vectors, queries = vectors_of(300), vectors_of(7, seed=1)
    vectors[100:110] = vectors[5]  # equal scores: the older first
    kb.upsert(numbered(300), vectors)
    scores, rows = _kernels.topk(vectors, queries, 20)
    found, revision = kb.search_revision(queries, 20)
    assert revision == 1
    assert [[p.id for p in hits] for hits in found] == [[f"p{r}" for r in row] for row in rows]
    assert [[p.score for p in hits] for hits in found] == scores.tolist()
    ties = kb.search_vectors(vectors[5:6], 5)[0]
    assert [p.id for p in ties] == ["p5", "p100", "p101", "p102", "p103"]


def test_scores_of_a_cosine_encoder_are_cosines(kind: str, place: Callable[[str], str]) -> None:
    with KnowledgeBase.create(place(kind), encoder=HashingEncoder(similarity="cosine")) as kb:
        vectors = vectors_of(4) * 1e20
        kb.upsert(numbered(4), vectors)
        found = {p.id: p.score for p in kb.search_vectors(vectors[:1] * 1e10, 9)[0]}
    wide = vectors.astype(np.float64)
    expected = wide @ wide[0] / np.linalg.norm(wide[0]) / np.maximum(np.linalg.norm(wide, axis=1), 1)
    assert [found[f"p{i}"] for i in range(4)] == pytest.approx(expected.tolist(), abs=1e-6)


@pytest.mark.parametrize(
    "where",
    [
        {},
        {"topic": "Animals"},
        {"topic": "Animals", "year": 2020},
        {"year": 2020.0},
        {"year": "2020"},
        {"tags": ["water", {"deep": True}]},
        {"tags": "water"},
        {"year": None},
    ],
)
def test_filter_is_equality_of_metadata(kb: KnowledgeBase, where: dict[str, object]) -> None:
    kb.upsert(PASSAGES)
    expected = [p.id for p in PASSAGES if matches(parse(where), p.metadata)]
    assert sorted(p.id for p in kb.search("cat", k=10, where=where)) == expected


@pytest.mark.parametrize(
    "where",
    [
        {"year": {"$gte": 1999.5, "$lt": 2020}},
        {"topic": {"$in": ["Places", "Arts"]}},
        {"topic": {"$ne": "Places"}},
        {"year": {"$exists": False}},
        {"tags": {"$contains": {"deep": True}}},
        {"topic": {"$gt": "B"}},
        {"$or": [{"year": {"$gt": 2000}}, {"tags": {"$contains": "water"}}]},
        {"$not": {"year": {"$lte": 1999.5}}},
    ],
)
def test_operators(kb: KnowledgeBase, where: dict[str, object]) -> None:
    kb.upsert(PASSAGES)
    expected = [p.id for p in PASSAGES if matches(parse(where), p.metadata)]
    assert 0 < len(expected) < 3
    assert sorted(p.id for p in kb.search("cat", k=10, where=where)) == expected


def test_a_field_nobody_has_is_named(kb: KnowledgeBase) -> None:
    assert kb.search("cat", where={"topik": "Animals"}) == []
    kb.upsert(PASSAGES)
    with pytest.raises(ValueError, match="no passage has the metadata field 'topik'"):
        kb.search("cat", where={"topik": "Animals"})
    assert len(kb.search("cat", where={"topik": {"$ne": "Animals"}})) == 3


def test_metadata_change_alone(kb: KnowledgeBase) -> None:
    kb.upsert(PASSAGES)
    vectors = vectors_of(1)
    kb.upsert([Passage("v", "given", metadata={"year": 1})], vectors)
    changes = {"a": {"year": 2021, "new": [None]}, "v": {"topic": "Things"}, "nobody": {"x": 1}}
    assert kb.update_metadata(changes) == ["a", "v"]
    assert kb.revision == 3
    found = {p.id: p for p in kb.search("cat", k=9, where={"$or": [{"year": 2021}, {"topic": "Things"}]})}
    assert {i: dict(p.metadata) for i, p in found.items()} == {
        "a": {"topic": "Animals", "year": 2021, "new": [None]},
        "v": {"year": 1, "topic": "Things"},
    }
    assert kb.search("cat", where={"year": 2020}) == []
    assert (
        kb.upsert([Passage("v", "given", metadata={"topic": "Things", "year": 1.0})], vectors).unchanged == 1
    )
    with pytest.raises(TypeError, match="a set"):
        kb.update_metadata({"a": {"x": {1}}})
    assert kb.update_metadata({}) == []
    assert kb.check().passages == 4
    best = kb.search_vectors(vectors, 1)[0]
    assert (best[0].id, best.revision) == ("v", 3)


def test_zero_vectors_have_no_cosine(kind: str, place: Callable[[str], str]) -> None:
    with KnowledgeBase.create(place(kind), encoder=HashingEncoder(similarity="cosine")) as kb:
        zero = np.zeros((1, 16), dtype=np.float32)
        with pytest.raises(ValueError, match="row 0 is a zero vector"):
            kb.upsert(PASSAGES[:1], zero)
        with pytest.raises(ValueError, match="row 0 is a zero vector"):
            kb.search_vectors(zero, 1)
        assert len(kb) == 0


def test_a_filter_still_gives_k(kb: KnowledgeBase) -> None:
    vectors = vectors_of(400)
    kb.upsert(numbered(400), vectors)
    best = kb.search_vectors(vectors[:1], 7, where={"odd": True})[0]
    scores, rows = _kernels.topk(np.ascontiguousarray(vectors[1::2]), vectors[:1], 7)
    assert [(p.id, p.score) for p in best] == [
        (f"p{2 * r + 1}", s) for r, s in zip(rows[0].tolist(), scores[0].tolist(), strict=True)
    ]
    assert [p.id for p in kb.search_vectors(vectors[:1], 7, where={"number": 399})[0]] == ["p399"]


def test_odd_texts_come_back_unchanged(kb: KnowledgeBase) -> None:
    odd = [
        Passage("emoji 🦆\u202e", "🦆" * 10, title="'; DROP TABLE passages; --"),
        Passage("i" * 10_000, "x" * 1_000_000),
        Passage("%s {}", "tab\tnewline\nreturn\r\x01\x7f", title="\\. \\N"),
        Passage("deep", "text", metadata={"a": {"b": [1, 2.5, None, True, "é"]}, "": 10**30, "big": 1e308}),
        Passage("e\u0301", "one", metadata={"x.y[0]": 1, 'q"': -0.0}),
        Passage("\u00e9", "the other"),
    ]
    assert kb.upsert(odd) == Upserted(added=6)
    got = kb.get([p.id for p in odd])
    assert got == odd
    assert [type(p.metadata.get("big")) for p in got if p] == [type(p.metadata.get("big")) for p in odd]
    assert kb.upsert(odd) == Upserted(unchanged=6)
    assert len(kb.search("text", k=9)) == 6
    assert [p.id for p in kb.search("text", where={"x.y[0]": 1})] == ["e\u0301"]
    assert kb.delete([odd[1].id]) == [odd[1].id]
    kb.check()


def test_bad_vectors_are_refused(kb: KnowledgeBase) -> None:
    good = np.zeros((3, 16), dtype=np.float32)
    with pytest.raises(TypeError, match="float64"):
        kb.upsert(PASSAGES, good.astype(np.float64))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\[3, 16\], got \[3, 15\]"):
        kb.upsert(PASSAGES, good[:, :15])
    for value in (np.nan, np.inf):
        bad = good.copy()
        bad[1, 3] = value
        with pytest.raises(ValueError, match="row 1 holds NaN"):
            kb.upsert(PASSAGES, bad)
        with pytest.raises(ValueError, match="row 1 holds NaN"):
            kb.search_vectors(bad, 1)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        kb.search_vectors(good, 0)
    with pytest.raises(TypeError, match="must be Passage objects, got str"):
        kb.upsert(["text"])  # type: ignore[list-item]
    assert (len(kb), kb.revision) == (0, 0)


def test_extreme_vectors(kb: KnowledgeBase) -> None:
    vectors = np.zeros((3, 16), dtype=np.float32)
    vectors[0, 0], vectors[1, 0], vectors[2, 0] = 2e17, 1e-45, -1e-39
    kb.upsert(PASSAGES, vectors)
    for query in np.float32([1, 1e-40, 1e-45]):
        line = np.zeros((1, 16), dtype=np.float32)
        line[0, 0] = query
        found = kb.search_vectors(line, 3)[0]
        scores, rows = _kernels.topk(vectors, line, 3)
        assert [(p.id, p.score) for p in found] == [
            ("abc"[r], s) for r, s in zip(rows[0], scores[0].tolist(), strict=True)
        ]


def test_another_encoder_is_refused(kind: str, place: Callable[[str], str], encoder: HashingEncoder) -> None:
    here = place(kind)
    KnowledgeBase.create(here, encoder=encoder).close()
    with pytest.raises(EncoderMismatchError, match=r"hashing-16-dot-0.*hashing-16-dot-1"):
        KnowledgeBase.open(here, encoder=HashingEncoder(seed=1))


def test_creating_twice_and_opening_nothing(
    kind: str, place: Callable[[str], str], encoder: HashingEncoder
) -> None:
    here = place(kind)
    with pytest.raises(KnowledgeBaseError, match="no knowledge base at"):
        KnowledgeBase.open(here, encoder=encoder)
    with pytest.raises(ValueError, match="give bundle or encoder"):
        KnowledgeBase.create(here)
    with pytest.raises(ValueError, match="auto, exact, hnsw, got 'flat'"):
        KnowledgeBase.create(here, encoder=encoder, index="flat")
    KnowledgeBase.create(here, encoder=encoder).close()
    with pytest.raises(KnowledgeBaseError, match="open it, or choose another"):
        KnowledgeBase.create(here, encoder=encoder)


def test_without_encoder_only_texts_are_refused(
    kind: str, place: Callable[[str], str], encoder: HashingEncoder
) -> None:
    here = place(kind)
    with KnowledgeBase.create(here, encoder=encoder) as kb:
        kb.upsert(PASSAGES)
    with KnowledgeBase.open(here) as kb:
        assert len(kb.search_vectors(encoder.encode(["cat"]), 2)[0]) == 2
        with pytest.raises(KnowledgeBaseError, match="without a bundle"):
            kb.search("cat")
        with pytest.raises(KnowledgeBaseError, match="without a bundle"):
            kb.upsert([Passage("d", "text")])
        assert kb.delete(["a"]) == ["a"]


def test_index_compact_and_info(kb: KnowledgeBase) -> None:
    vectors = vectors_of(200)
    kb.upsert(numbered(200), vectors)
    before = kb.search_vectors(vectors[:5], 10)
    kb.build_index("hnsw")
    assert kb.info()["search"] == "hnsw"
    assert kb.search_vectors(vectors[:5], 10) == before
    assert kb.search_vectors(vectors[:1], 3, where={"number": 150})[0][0].id == "p150"
    kb.upsert([Passage("new", "fresh")], vectors[:1] * 2)
    assert kb.search_vectors(vectors[:1], 1)[0][0].id == "new"
    kb.delete(["new", "p199"])
    kb.compact()
    assert kb.search_vectors(vectors[:5], 10) == before
    kb.build_index("exact")
    info = json.loads(json.dumps(kb.info()))
    assert (info["passages"], info["search"], info["index"], info["dim"]) == (199, "exact", "exact", 16)
    assert sum(info["bytes"].values()) > 0
    assert kb.check().passages == 199


def test_what_only_a_folder_has_is_refused(
    remote_kind: str, place: Callable[[str], str], encoder: HashingEncoder
) -> None:
    with KnowledgeBase.create(place(remote_kind), encoder=encoder) as kb:
        kb.upsert(PASSAGES)
        for mode in ("lexical", "hybrid"):
            with pytest.raises(KnowledgeBaseError, match=f"mode '{mode}' is for folders only"):
                kb.search("cat", mode=mode)
        with pytest.raises(KnowledgeBaseError, match="duplicates are left out in a folder only"):
            kb.upsert(PASSAGES, deduplicate=True)
        assert len(kb.search("cat", mode="dense")) == 3
        with pytest.raises(KnowledgeBaseError, match="use pg_dump, or Qdrant's snapshots"):
            kb.backup("copy")
        for export in (kb.export_jsonl, kb.export_dataset):
            with pytest.raises(KnowledgeBaseError, match="only a folder is exported"):
                export("out")


def test_closed_means_closed(kb: KnowledgeBase) -> None:
    kb.close()
    kb.close()
    with pytest.raises(KnowledgeBaseError, match="is closed"):
        kb.search("cat")
