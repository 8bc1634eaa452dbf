"""Upserts of any size, changes of metadata alone, duplicates, and the revision in every result."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from rag_infer.knowledge import KnowledgeBase, Passage, Upserted
from rag_infer.knowledge.upsert import BATCH_SIZE
from tests.knowledge.encoders import HashingEncoder

MANY = 2 * BATCH_SIZE + 100


def passages(count: int = MANY) -> Iterator[Passage]:
    for i in range(count):
        yield Passage(f"p{i}", f"word{i % 50} text {i}", metadata={"even": i % 2 == 0})


def test_a_stream_is_committed_together(kb: KnowledgeBase) -> None:
    seen = []

    def watched() -> Iterator[Passage]:
        for passage in passages():
            if passage.id == f"p{MANY - 1}":
                with KnowledgeBase.open(kb.folder, encoder=HashingEncoder()) as other:
                    seen.append(len(other))
            yield passage

    assert kb.upsert(watched()) == Upserted(added=MANY)
    assert seen == [0]
    assert (len(kb), kb.revision) == (MANY, 1)
    assert kb.upsert(passages()) == Upserted(unchanged=MANY)
    assert kb.revision == 1
    kb.check()


def test_a_stream_that_fails_leaves_nothing(kb: KnowledgeBase) -> None:
    kb.upsert([Passage("old", "words")])

    def broken() -> Iterator[Passage]:
        yield from passages()
        raise OSError("the source is gone")

    with pytest.raises(OSError, match="the source is gone"):
        kb.upsert(broken())
    with pytest.raises(TypeError, match="must be Passage objects, got int"):
        kb.upsert([*passages(), 3])  # type: ignore[list-item]
    assert (len(kb), kb.revision) == (1, 1)
    kb.upsert([Passage("new", "other words")])
    assert sorted(p.id for p in kb.search("words", k=5)) == ["new", "old"]
    kb.check()


def test_an_id_that_comes_again_in_a_later_batch(kb: KnowledgeBase) -> None:
    kb.upsert([Passage("p0", "before"), Passage("x", "before")])
    again = [Passage("p0", "after"), Passage("p5", "after"), Passage("x", "after")]
    assert kb.upsert([*passages(), *again]) == Upserted(added=MANY - 1, replaced=2)
    assert [p.text for p in kb.get(["p0", "p5", "x"]) if p] == ["after"] * 3
    assert len(kb) == MANY + 1
    kb.check()


def test_given_vectors_of_a_long_list(kb: KnowledgeBase) -> None:
    vectors = np.random.default_rng(0).standard_normal((MANY, 16)).astype(np.float32)
    assert kb.upsert(list(passages()), vectors) == Upserted(added=MANY)
    assert kb.upsert(passages(), vectors) == Upserted(unchanged=MANY)
    changed = vectors.copy()
    changed[MANY - 1] += 1
    assert kb.upsert(passages(), changed) == Upserted(replaced=1, unchanged=MANY - 1)
    with pytest.raises(ValueError, match=rf"\[{MANY}, 16\], got \[3, 16\]"):
        kb.upsert(passages(), vectors[:3])


def test_other_metadata_are_changed_in_place(kb: KnowledgeBase, encoder: HashingEncoder) -> None:
    kb.upsert([Passage("a", "red", metadata={"year": 1}), Passage("b", "blue", metadata={"year": 1})])
    encoded = encoder.encoded
    assert kb.upsert([Passage("a", "red", metadata={"year": 2})]) == Upserted(replaced=1)
    assert kb.update_metadata({"b": {"tag": "x"}, "nobody": {"tag": "y"}}) == ["b"]
    assert (encoder.encoded, kb.info()["dead_rows"], kb.revision) == (encoded, 0, 3)
    assert [p.metadata for p in kb.get(["a", "b"]) if p] == [{"year": 2}, {"year": 1, "tag": "x"}]
    assert [p.id for p in kb.search("red", where={"year": 2})] == ["a"]
    assert [p.id for p in kb.search("red", where={"tag": "x"})] == ["b"]
    with pytest.raises(TypeError, match="a set"):
        kb.update_metadata({"a": {"tag": {1}}})
    assert kb.revision == 3
    kb.check()
    kb.compact()
    assert [p.id for p in kb.search("red", where={"tag": "x"})] == ["b"]


def test_duplicates_are_left_out_where_asked(kb: KnowledgeBase) -> None:
    assert kb.upsert(
        [Passage("a", "same", title="T"), Passage("b", "same", title="T")], deduplicate=True
    ) == (Upserted(added=1, duplicates=1))
    again = [Passage("c", "same", title="T"), Passage("d", "same"), Passage("e", "same")]
    assert kb.upsert(again, deduplicate=True) == Upserted(added=1, duplicates=2)
    assert [p and p.id for p in kb.get(["a", "b", "c", "d", "e"])] == ["a", None, None, "d", None]
    # What is there already is replaced, or it would keep contents that are no longer so.
    assert kb.upsert([Passage("d", "same", title="T")], deduplicate=True) == Upserted(replaced=1)


def test_every_result_says_its_revision(kb: KnowledgeBase) -> None:
    assert kb.search("nothing").revision == 0
    kb.upsert([Passage("a", "red")])
    assert kb.search("red").revision == 1
    kb.delete(["a"])
    assert [found.revision for found in kb.search(["red", "blue"])] == [2, 2]


def test_a_change_is_seen_by_those_who_have_it_open(kb: KnowledgeBase) -> None:
    with KnowledgeBase.open(kb.folder, encoder=HashingEncoder()) as reader:
        assert reader.search("red") == []
        kb.upsert([Passage("a", "red")])
        assert (reader.search("red")[0].id, reader.search("red").revision) == ("a", 1)
        kb.compact()
        kb.delete(["a"])
        assert reader.search("red") == []


def test_a_zero_vector_has_no_cosine(tmp_path: object) -> None:
    encoder = HashingEncoder(similarity="cosine")
    with KnowledgeBase.create(f"{tmp_path}/kb", encoder=encoder) as kb:
        vectors = np.eye(2, 16, dtype=np.float32)
        vectors[1] = 0
        with pytest.raises(ValueError, match=r"row 1 is a zero vector, which has no cosine \(1 such rows\)"):
            kb.upsert([Passage("a", "x"), Passage("b", "y")], vectors)
        with pytest.raises(ValueError, match="row 1 is a zero vector"):
            kb.search_vectors(vectors, 1)
        assert len(kb) == 0


def test_metadata_of_ten_megabytes_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"passage 'a' has metadata of 10,000,009 bytes as JSON, over 1,000,000"
    ):
        Passage("a", "text", metadata={"x": "y" * 10_000_000})


def test_a_text_that_two_have_is_still_that_of_one_when_the_other_changes(kb: KnowledgeBase) -> None:
    kb.upsert([Passage("a\0", "same"), Passage("c", "same")])
    done = kb.upsert([Passage("a\0", "new"), Passage("b", "same")], deduplicate=True)
    assert done == Upserted(replaced=1, duplicates=1)
    done = kb.upsert([Passage("c", "newer"), Passage("b", "same")], deduplicate=True)
    assert done == Upserted(added=1, replaced=1)
