"""Searches through codes give what float32 gives, to the last bit, whatever has been written since they were made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rag_infer import _kernels
from rag_infer.errors import CorruptIndexError, RagInferWarning
from rag_infer.knowledge import KnowledgeBase, Passage
from rag_infer.knowledge import scan as scan_module
from rag_infer.knowledge.scan import build_scan, load_scan
from rag_infer.knowledge.snapshots import publish
from rag_infer.knowledge.vectors import Vectors
from tests.knowledge.encoders import HashingEncoder

DIM = 16
CODED = ["int8", "float16"]


def passages(first: int, count: int) -> list[Passage]:
    return [Passage(str(i), f"text {i}", metadata={"third": i % 3}) for i in range(first, first + count)]


def random_vectors(count: int, seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)


def hits(found: list[list[Passage]]) -> list[list[tuple[str, float]]]:
    return [[(p.id, p.score) for p in query] for query in found]


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize("kind", CODED)
def test_answers_are_those_of_float32(tmp_path: Path, kind: str, similarity: str) -> None:
    encoder = HashingEncoder(similarity=similarity)
    queries = random_vectors(7, 3)
    with (
        KnowledgeBase.create(tmp_path / "a", encoder=encoder, scan=kind, rows_per_segment=40) as coded,
        KnowledgeBase.create(tmp_path / "b", encoder=encoder, scan="float32", rows_per_segment=40) as plain,
    ):
        for kb in (coded, plain):
            kb.upsert(passages(0, 130), random_vectors(130, 1))
            kb.build_index("exact")
        assert (coded.info()["scanned_as"], plain.info()["scanned_as"]) == (kind, "float32")

        def same() -> None:
            for k in (1, 10, 500):
                for where in (None, {"third": 1}):
                    a, b = (hits(kb.search_vectors(queries, k, where=where)) for kb in (coded, plain))
                    assert a == b

        same()
        for kb in (coded, plain):  # what comes later is searched in float32
            kb.upsert(passages(120, 15), random_vectors(15, 2))
            kb.delete([str(i) for i in range(0, 50, 3)])
        same()
        coded.check()
        for kb in (coded, plain):
            kb.compact()
        assert coded.info()["scanned_as"] == kind
        same()


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(CODED),
    rows=st.integers(1, 60),
    covered=st.integers(1, 60),
    first_row=st.integers(0, 70),
    per_segment=st.integers(1, 25),
    k=st.integers(1, 70),
    masked=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_cut_into_segments_and_rows(
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    rows: int,
    covered: int,
    first_row: int,
    per_segment: int,
    k: int,
    masked: bool,
    seed: int,
) -> None:
    random = np.random.default_rng(seed)
    data = random.integers(-2, 3, (rows, 5)).astype(np.float32)  # many ties
    covered = min(covered, rows)

    def cut(end: int) -> Vectors:
        starts = range(0, end, per_segment)
        return Vectors(tuple(data[at : min(at + per_segment, end)] for at in starts), per_segment)

    folder = tmp_path_factory.mktemp("scan")
    name, sha256 = build_scan(folder, kind, cut(covered), generation=1, rows=covered, dim=5)
    publish(folder, name)
    scan = load_scan(folder, name, sha256, dim=5)
    queries = random.integers(-2, 3, (3, 5)).astype(np.float32)
    mask = random.random(rows) < 0.5 if masked else None
    found = scan.topk(cut(rows), queries, k, first_row=first_row, mask=mask)
    expected = cut(rows).topk(queries, k, first_row=first_row, mask=mask)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


def test_auto_means_int8_above_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_module, "AUTO_FLOAT32_PASSAGES", 100)
    with KnowledgeBase.create(tmp_path / "kb", encoder=HashingEncoder()) as kb:
        kb.upsert(passages(0, 100), random_vectors(100, 1))
        assert not kb.build_index()
        assert kb.info()["scanned_as"] == "float32"
        kb.upsert(passages(100, 1), random_vectors(1, 2))
        assert kb.build_index()
        assert kb.info()["scanned_as"] == "int8"
        assert not kb.build_index()
        kb.upsert(passages(101, 9), random_vectors(9, 3))
        assert not kb.build_index()  # nine rows in float32 are no burden
        kb.upsert(passages(110, 9), random_vectors(9, 4))
        assert kb.build_index()
        assert kb.build_index(scan="float16")
        assert kb.info()["scanned_as"] == "float16"
        kb.delete([str(i) for i in range(119)])
        assert kb.build_index()
        assert kb.info()["scanned_as"] == "float32"
        assert not list((kb.folder / "scan").iterdir())


def test_the_codes_are_searched(kb: KnowledgeBase, monkeypatch: pytest.MonkeyPatch) -> None:
    kb.upsert(passages(0, 20), random_vectors(20, 1))
    kb.build_index(scan="int8")
    calls = []
    real = _kernels.topk_int8

    def counting(*args: object, **options: object) -> object:
        calls.append(len(args[0]))  # type: ignore[arg-type]
        return real(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(_kernels, "topk_int8", counting)
    kb.search_vectors(random_vectors(1, 5), 3)
    kb.search_vectors(random_vectors(1, 5), 3, where={"third": 0})
    assert calls == [8, 8, 4] * 2


def test_repaired_vectors_get_new_codes(kb: KnowledgeBase) -> None:
    kb.upsert([Passage(str(i), f"word{i}") for i in range(20)])
    kb.build_index(scan="int8")
    before = kb.search("word3", k=20)
    (first,) = (kb.folder / "scan").iterdir()
    segment = kb.folder / "vectors" / "000001-000000.f32"
    data = bytearray(segment.read_bytes())
    data[40] ^= 0x40
    segment.write_bytes(data)
    kb.close()
    KnowledgeBase.repair(kb.folder, encoder=HashingEncoder())
    with KnowledgeBase.open(kb.folder, encoder=HashingEncoder()) as again:
        assert again.search("word3", k=20) == before
        assert [p.name for p in (kb.folder / "scan").iterdir()] != [first.name]
        again.check()


@pytest.mark.parametrize("name", ["codes.bin", "scales.bin", "errors.bin", "norms.bin", "manifest.json"])
@pytest.mark.parametrize("damage", ["altered", "cut", "missing"])
def test_damaged_codes_are_made_anew(kb: KnowledgeBase, name: str, damage: str) -> None:
    kb.upsert(passages(0, 20), random_vectors(20, 1))
    kb.build_index(scan="float16")
    (folder,) = (kb.folder / "scan").iterdir()
    path = folder / name
    data = bytearray(path.read_bytes())
    if damage == "altered":
        data[7] ^= 0x10
        path.write_bytes(data)
    elif damage == "cut":
        path.write_bytes(data[:-1])
    else:
        path.unlink()
    with pytest.raises(CorruptIndexError, match="scan"):
        kb.check()
    queries = random_vectors(2, 9)
    with pytest.warns(RagInferWarning, match="corrupt index made anew"):
        found = hits(kb.search_vectors(queries, 5))
    kb.check()
    assert hits(kb.search_vectors(queries, 5)) == found
    kb.build_index(scan="float32")
    assert hits(kb.search_vectors(queries, 5)) == found


def test_an_unknown_kind_is_refused(kb: KnowledgeBase, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="scan must be one of auto, float32, float16, int8, got 'int4'"):
        kb.build_index(scan="int4")
    with pytest.raises(ValueError, match="scan must be one of"):
        KnowledgeBase.create(tmp_path / "other", encoder=HashingEncoder(), scan="")
    with pytest.raises(ValueError, match=r"min_recall must be from 0 to 1, got 1\.5"):
        kb.build_index(min_recall=1.5)
