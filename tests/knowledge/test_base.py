"""What a knowledge base promises to those who write and read it."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from rag_infer.errors import (
    BundleError,
    CorruptIndexError,
    EncoderMismatchError,
    KnowledgeBaseError,
)
from rag_infer.knowledge import KnowledgeBase, Passage, Upserted
from tests.knowledge.encoders import HashingEncoder

PASSAGES = [
    Passage("a", "the cat sat on the mat", title="Cats", metadata={"topic": "Animals", "year": 2020}),
    Passage("b", "dogs chase the cat", metadata={"topic": "Animals"}),
    Passage("c", "rivers run to the sea", metadata={"topic": "Places", "tags": ["water", {"deep": True}]}),
]


@pytest.mark.parametrize("name", ["kb", "with space", "odd?name=#%20&é"])
def test_what_is_written_is_read_after_reopening(tmp_path: Path, encoder: HashingEncoder, name: str) -> None:
    with KnowledgeBase.create(tmp_path / name, encoder=encoder) as kb:
        assert kb.upsert(PASSAGES) == Upserted(added=3)
    with KnowledgeBase.open(tmp_path / name, encoder=encoder) as kb:
        assert len(kb) == 3
        assert kb.get(["c", "nobody", "a"]) == [PASSAGES[2], None, PASSAGES[0]]
        best = kb.search("dogs chase the cat", k=1)[0]
    expected = float(np.square(encoder.encode(["dogs chase the cat"])[0].astype(np.float64)).sum())
    assert (best.id, best.text, best.metadata) == ("b", PASSAGES[1].text, {"topic": "Animals"})
    assert best.score == pytest.approx(expected, rel=1e-6)


def test_same_contents_are_no_work(kb: KnowledgeBase, encoder: HashingEncoder) -> None:
    kb.upsert(PASSAGES)
    revision, encoded = kb.revision, encoder.encoded
    assert kb.upsert(PASSAGES) == Upserted(unchanged=3)
    assert (kb.revision, encoder.encoded) == (revision, encoded)


@pytest.mark.parametrize(
    "changed",
    [
        Passage("a", "another text", title="Cats", metadata={"topic": "Animals", "year": 2020}),
        Passage("a", PASSAGES[0].text, title="Dogs", metadata=PASSAGES[0].metadata),
        Passage("a", PASSAGES[0].text, title="Cats", metadata={"topic": "Animals", "year": 2021}),
        Passage("a", PASSAGES[0].text, title="Cats", metadata={"topic": "Animals", "year": True}),
    ],
)
def test_changed_contents_replace(kb: KnowledgeBase, changed: Passage) -> None:
    kb.upsert(PASSAGES)
    assert kb.upsert([changed, PASSAGES[1]]) == Upserted(replaced=1, unchanged=1)
    assert len(kb) == 3
    assert kb.get(["a"]) == [changed]
    assert sorted(p.id for p in kb.search("cat", k=10)) == ["a", "b", "c"]


def test_of_equal_ids_in_one_call_the_last_counts(kb: KnowledgeBase) -> None:
    assert kb.upsert([Passage("x", "old"), Passage("y", "other"), Passage("x", "new")]) == Upserted(added=2)
    assert [p.text for p in kb.get(["x"]) if p] == ["new"]


def test_deleted_passages_are_gone(kb: KnowledgeBase) -> None:
    kb.upsert(PASSAGES)
    assert kb.delete(["b", "nobody", "b"]) == ["b"]
    assert [p.id for p in kb.search("dogs chase the cat", k=5)][:1] != ["b"]
    assert (len(kb), kb.get(["b"])) == (2, [None])
    assert kb.delete(["b"]) == []
    kb.upsert([PASSAGES[1]])
    assert kb.search("dogs chase the cat", k=1)[0].id == "b"


def test_an_empty_knowledge_base_finds_nothing(kb: KnowledgeBase) -> None:
    assert kb.search("anything") == []
    assert kb.search(["one", "two"]) == [[], []]
    assert kb.search("anything", where={"topic": "Animals"}) == []
    assert kb.search([]) == []
    kb.upsert(PASSAGES)
    kb.delete(["a", "b", "c"])
    assert kb.search("anything") == []
    assert kb.upsert([]) == Upserted()


@pytest.mark.parametrize("k", [0, -3])
def test_k_below_one_is_refused(kb: KnowledgeBase, k: int) -> None:
    with pytest.raises(ValueError, match=f"k must be at least 1, got {k}"):
        kb.search("cat", k=k)


def test_k_above_the_corpus_returns_all(kb: KnowledgeBase) -> None:
    kb.upsert(PASSAGES)
    assert len(kb.search("cat", k=1000)) == 3


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"topic": "Animals"}, ["a", "b"]),
        ({"topic": "Animals", "year": 2020}, ["a"]),
        ({"year": 2020.0}, ["a"]),
        ({"year": "2020"}, []),
        ({"tags": ["water", {"deep": True}]}, ["c"]),
        ({"tags": "water"}, []),
        ({"nothing": {"$exists": True}}, []),
        ({"nothing": {"$ne": 1}, "year": {"$gte": 2020}}, ["a"]),
        ({"topic": {"$in": ["Places", "Arts"]}}, ["c"]),
        ({"$or": [{"year": {"$lt": 2021}}, {"tags": {"$contains": "water"}}]}, ["a", "c"]),
        ({"$not": {"topic": "Animals"}}, ["c"]),
        ({}, ["a", "b", "c"]),
    ],
)
def test_filter_is_equality_of_metadata(
    kb: KnowledgeBase, where: dict[str, object], expected: list[str]
) -> None:
    kb.upsert(PASSAGES)
    assert sorted(p.id for p in kb.search("cat", k=10, where=where)) == expected


def test_a_filter_on_a_field_nobody_has_is_refused(kb: KnowledgeBase) -> None:
    kb.upsert(PASSAGES)
    with pytest.raises(
        ValueError, match="no passage has the metadata field 'topc'; the fields are: 'tags', 'topic', 'year'"
    ):
        kb.search("cat", where={"topc": "Animals"})


def test_filter_follows_replaced_metadata(kb: KnowledgeBase) -> None:
    kb.upsert(PASSAGES)
    kb.upsert([Passage("a", PASSAGES[0].text, metadata={"topic": "Places"})])
    assert sorted(p.id for p in kb.search("cat", where={"topic": "Animals"})) == ["b"]
    assert sorted(p.id for p in kb.search("cat", where={"topic": "Places"})) == ["a", "c"]


def test_scores_of_a_cosine_encoder_are_cosines(tmp_path: Path) -> None:
    encoder = HashingEncoder(similarity="cosine")
    with KnowledgeBase.create(tmp_path / "kb", encoder=encoder) as kb:
        kb.upsert(PASSAGES)
        scores = {p.id: p.score for p in kb.search("the cat sat", k=3)}
    question, *rows = encoder.encode(
        ["the cat sat", "Cats. the cat sat on the mat", PASSAGES[1].text, PASSAGES[2].text]
    ).astype(np.float64)
    for id_, row in zip("abc", rows, strict=True):
        cosine = question @ row / np.linalg.norm(question) / np.linalg.norm(row)
        assert scores[id_] == pytest.approx(cosine, abs=1e-6)


def test_given_vectors_are_searched(kb: KnowledgeBase, encoder: HashingEncoder) -> None:
    vectors = np.eye(3, 16, dtype=np.float32)
    assert kb.upsert(PASSAGES, vectors) == Upserted(added=3)
    assert encoder.encoded == 0
    assert [[p.id for p in found] for found in kb.search_vectors(vectors, 1)] == [["a"], ["b"], ["c"]]
    assert kb.upsert(PASSAGES, vectors) == Upserted(unchanged=3)
    assert kb.upsert(PASSAGES, vectors * 2) == Upserted(replaced=3)


def test_bad_vectors_are_refused(kb: KnowledgeBase) -> None:
    good = np.zeros((3, 16), dtype=np.float32)
    with pytest.raises(TypeError, match="float64"):
        kb.upsert(PASSAGES, good.astype(np.float64))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\[3, 16\], got \[3, 15\]"):
        kb.upsert(PASSAGES, good[:, :15])
    bad = good.copy()
    bad[1, 3] = np.nan
    with pytest.raises(ValueError, match="row 1 holds NaN"):
        kb.upsert(PASSAGES, bad)
    with pytest.raises(ValueError, match="row 1 holds NaN"):
        kb.search_vectors(bad, 1)
    with pytest.raises(ValueError, match=r"\[any, 16\], got \[16\]"):
        kb.search_vectors(good[0], 1)
    assert len(kb) == 0


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Passage("", "text"), ValueError, "empty id"),
        (lambda: Passage("p", " \n"), ValueError, "empty text"),
        (lambda: Passage("p", "é" * 500_001), ValueError, "1,000,002 bytes"),
        (lambda: Passage("p", "a\ud800"), ValueError, "lone surrogate"),
        (lambda: Passage(7, "text"), TypeError, "id must be a string, got int"),
        (lambda: Passage("p", "text", metadata={"x": float("nan")}), ValueError, "nan"),
        (lambda: Passage("p", "text", metadata={"x": {1}}), TypeError, "a set"),
        (lambda: Passage("p", "text", metadata={3: "x"}), TypeError, "3"),
    ],
)
def test_impossible_passages(make: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()  # type: ignore[operator]


def test_odd_texts_come_back_unchanged(kb: KnowledgeBase) -> None:
    odd = [
        Passage("nul\0id", "nul\0text\nline\ttab"),
        Passage("emoji 🦆", "🦆" * 10, title="'; DROP TABLE passages; --"),
        Passage("big", "x" * 1_000_000),
        Passage("deep", "text", metadata={"a": {"b": [1, 2.5, None, True, "é"]}, "": 10**30}),
    ]
    kb.upsert(odd)
    assert kb.get([p.id for p in odd]) == odd


def test_another_encoder_is_refused(tmp_path: Path, encoder: HashingEncoder) -> None:
    KnowledgeBase.create(tmp_path / "kb", encoder=encoder).close()
    with pytest.raises(EncoderMismatchError, match=r"hashing-16-dot-0.*hashing-16-dot-1"):
        KnowledgeBase.open(tmp_path / "kb", encoder=HashingEncoder(seed=1))


def test_without_encoder_only_texts_are_refused(tmp_path: Path, encoder: HashingEncoder) -> None:
    with KnowledgeBase.create(tmp_path / "kb", encoder=encoder) as kb:
        kb.upsert(PASSAGES)
    with KnowledgeBase.open(tmp_path / "kb") as kb:
        assert kb.info()["passages"] == 3
        assert len(kb.search_vectors(encoder.encode(["cat"]), 2)[0]) == 2
        with pytest.raises(KnowledgeBaseError, match="without a bundle"):
            kb.search("cat")
        with pytest.raises(KnowledgeBaseError, match="without a bundle"):
            kb.upsert([Passage("d", "text")])
        assert kb.delete(["a"]) == ["a"]


def test_creating_needs_an_encoder_and_an_empty_place(tmp_path: Path, encoder: HashingEncoder) -> None:
    with pytest.raises(ValueError, match="give bundle or encoder"):
        KnowledgeBase.create(tmp_path / "kb")
    with pytest.raises(ValueError, match="not both"):
        KnowledgeBase.create(tmp_path / "kb", encoder=encoder, bundle=tmp_path)
    with pytest.raises(ValueError, match="auto, exact, hnsw, got 'flat'"):
        KnowledgeBase.create(tmp_path / "kb", encoder=encoder, index="flat")
    with pytest.raises(BundleError, match="no bundle at"):
        KnowledgeBase.create(tmp_path / "kb", bundle=tmp_path / "bundle")
    (tmp_path / "file").write_text("mine")
    for taken in (tmp_path, tmp_path / "file"):
        with pytest.raises(KnowledgeBaseError, match="exists and is not an empty folder"):
            KnowledgeBase.create(taken, encoder=encoder)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


def test_opening_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(KnowledgeBaseError, match="no knowledge base at"):
        KnowledgeBase.open(tmp_path / "nowhere")


def test_a_newer_format_is_refused(tmp_path: Path, encoder: HashingEncoder) -> None:
    KnowledgeBase.create(tmp_path / "kb", encoder=encoder).close()
    with sqlite3.connect(tmp_path / "kb" / "record.sqlite") as connection:
        connection.execute("UPDATE settings SET value = '4' WHERE name = 'format_version'")
    connection.close()
    with pytest.raises(KnowledgeBaseError, match="format_version 4, this rag_infer reads up to 3"):
        KnowledgeBase.open(tmp_path / "kb")


@pytest.mark.parametrize("content", [b"", b"not a database, but long enough" * 100])
def test_a_damaged_record_is_a_typed_error(tmp_path: Path, encoder: HashingEncoder, content: bytes) -> None:
    KnowledgeBase.create(tmp_path / "kb", encoder=encoder).close()
    (tmp_path / "kb" / "record.sqlite").write_bytes(content)
    with pytest.raises(CorruptIndexError, match=r"record\.sqlite"):
        KnowledgeBase.open(tmp_path / "kb")


def test_closed_means_closed(kb: KnowledgeBase) -> None:
    kb.close()
    kb.close()
    with pytest.raises(KnowledgeBaseError, match="is closed"):
        kb.search("cat")


def test_info_can_be_printed_as_json(kb: KnowledgeBase) -> None:
    kb.upsert(PASSAGES)
    kb.delete(["a"])
    info = json.loads(json.dumps(kb.info()))
    assert (info["passages"], info["dead_rows"], info["revision"], info["search"]) == (2, 1, 2, "exact")
    assert info["bytes"]["vectors"] == 3 * 16 * 4


def test_compacting_keeps_passages_and_gives_space_back(kb: KnowledgeBase) -> None:
    kb.upsert([Passage(f"p{i}", f"word{i} text", metadata={"odd": i % 2}) for i in range(40)])
    kb.delete([f"p{i}" for i in range(0, 40, 3)])
    kb.upsert([Passage("p1", "something else", metadata={"odd": 0})])
    before = kb.search(["word7", "word8 text", "else"], k=30)
    odd = kb.search("word7", k=30, where={"odd": 1})
    kb.compact()
    assert kb.search(["word7", "word8 text", "else"], k=30) == before
    assert kb.search("word7", k=30, where={"odd": 1}) == odd
    assert kb.info()["dead_rows"] == 0
    assert kb.info()["bytes"]["vectors"] == len(kb) * 16 * 4
    assert kb.check().rows == len(kb)
    assert kb.upsert([Passage("p2", "word2 text", metadata={"odd": 0})]) == Upserted(unchanged=1)
    kb.upsert([Passage("new", "fresh words")])
    assert kb.search("fresh words", k=1)[0].id == "new"


def test_wrong_argument_types_are_named(kb: KnowledgeBase) -> None:
    with pytest.raises(TypeError, match="must be Passage objects, got str"):
        kb.upsert(["text"])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="not the string 'abc'"):
        kb.delete("abc")
    with pytest.raises(TypeError, match="got 3"):
        kb.get([3])  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"k must be an integer, got 2\.5"):
        kb.search("cat", k=2.5)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="where must be a mapping"):
        kb.search("cat", where=["topic"])  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="question is empty"):
        kb.search("  ")


def test_closing_lets_go_of_the_files(tmp_path: Path) -> None:
    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count(str(tmp_path))

    if not Path("/proc/self/maps").exists():
        pytest.skip("the system does not tell what is mapped")
    kb = KnowledgeBase.create(tmp_path / "kb", encoder=HashingEncoder())
    kb.upsert([Passage(f"p{i}", f"text {i}") for i in range(50)])
    kb.build_index("hnsw", scan="int8", min_recall=0)
    assert kb.search("text 3", k=1, where=None)
    assert mapped()
    kb.close()  # and whoever still refers to it holds nothing
    assert mapped() == 0
