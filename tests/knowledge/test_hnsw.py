"""The approximate index proposes; exact scores decide; whatever could crash hnswlib is refused before."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from rag_infer.errors import CorruptIndexError, RagInferWarning
from rag_infer.knowledge import KnowledgeBase, Passage
from rag_infer.knowledge import index as index_module
from rag_infer.knowledge.hnsw import build_snapshot, load_snapshot
from rag_infer.knowledge.hnsw_file import HEADER, check_file
from rag_infer.knowledge.vectors import Vectors
from tests.knowledge.encoders import HashingEncoder

DIM, ROWS = 16, 1500


@pytest.fixture(scope="module")
def vectors() -> NDArray[np.float32]:
    return np.random.default_rng(1).standard_normal((ROWS, DIM)).astype(np.float32)


@pytest.fixture
def filled(kb: KnowledgeBase, vectors: NDArray[np.float32]) -> KnowledgeBase:
    kb.upsert([Passage(str(i), f"text {i}", metadata={"third": i % 3}) for i in range(ROWS)], vectors)
    kb.build_index("hnsw")
    return kb


def ids(found: list[list[Passage]]) -> list[list[str]]:
    return [[p.id for p in hits] for hits in found]


def test_hits_have_the_exact_scores(filled: KnowledgeBase, vectors: NDArray[np.float32]) -> None:
    queries = np.random.default_rng(2).standard_normal((20, DIM)).astype(np.float32)
    found = filled.search_vectors(queries, 10)
    assert filled.info()["search"] == "hnsw"
    assert filled.info()["recall"] >= 0.98
    filled.build_index("exact")
    assert filled.info()["search"] == "exact"
    exact = filled.search_vectors(queries, 10)
    agreement = [len({p.id for p in a} & {p.id for p in b}) / 10 for a, b in zip(found, exact, strict=True)]
    assert np.mean(agreement) >= 0.98
    scores = {(q, p.id): p.score for q, hits in enumerate(exact) for p in hits}
    for q, hits in enumerate(found):
        for p in hits:  # to the last bit
            assert scores.get((q, p.id), p.score) == p.score


def test_rows_newer_than_the_snapshot_are_found(filled: KnowledgeBase) -> None:
    query = np.full((1, DIM), 5, dtype=np.float32)
    filled.upsert([Passage("new", "new text")], query.copy())
    filled.upsert([Passage("7", "replaced")], query * 2)
    assert ids(filled.search_vectors(query, 3))[0][:2] == ["7", "new"]
    filled.delete(["new"])
    assert "new" not in ids(filled.search_vectors(query, 50))[0]


def test_deleted_rows_are_not_found_however_many(filled: KnowledgeBase, vectors: NDArray[np.float32]) -> None:
    query = vectors[:1]
    for _ in range(4):
        nearest = ids(filled.search_vectors(query, 200))[0]
        assert len(nearest) == 200
        filled.delete(nearest)
        left = ids(filled.search_vectors(query, 200))[0]
        assert not set(left) & set(nearest)
        assert len(left) == 200
    assert filled.info()["search"] == "hnsw"


def test_filters_are_exact(filled: KnowledgeBase, vectors: NDArray[np.float32]) -> None:
    found = filled.search_vectors(vectors[:5], ROWS, where={"third": 1})
    assert [len(hits) for hits in found] == [ROWS // 3] * 5
    assert all(p.metadata["third"] == 1 for hits in found for p in hits)


def test_k_of_all_rows(filled: KnowledgeBase, vectors: NDArray[np.float32]) -> None:
    found = filled.search_vectors(vectors[:2], ROWS + 10)
    assert [len({p.id for p in hits}) for hits in found] == [ROWS, ROWS]


def test_auto_means_hnsw_above_its_limit(
    tmp_path: Path, vectors: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_module, "AUTO_EXACT_PASSAGES", 100)
    with KnowledgeBase.create(tmp_path / "kb", encoder=HashingEncoder()) as kb:
        kb.upsert([Passage(str(i), "text") for i in range(100)], vectors[:100])
        assert not kb.build_index()
        assert kb.info()["search"] == "exact"
        kb.upsert([Passage("one more", "text")], vectors[100:101])
        assert kb.build_index()
        assert kb.info()["search"] == "hnsw"
        assert not kb.build_index()  # nothing has changed
        kb.upsert([Passage(str(i), "text") for i in range(200, 205)], vectors[200:205])
        assert not kb.build_index()  # the exact search over five rows is no burden
        kb.delete([str(i) for i in range(60)])
        assert kb.build_index()
        assert kb.info()["search"] == "exact"
        assert not list((tmp_path / "kb" / "hnsw").iterdir())


def test_one_passage_can_be_indexed(kb: KnowledgeBase) -> None:
    kb.upsert([Passage("a", "words")])
    kb.build_index("hnsw")
    assert [p.id for p in kb.search("words", k=5)] == ["a"]
    kb.delete(["a"])
    assert kb.search("words", k=5) == []
    kb.build_index("hnsw")
    assert kb.info()["search"] == "exact"


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory, vectors: NDArray[np.float32]) -> tuple[Path, str, str]:
    folder = tmp_path_factory.mktemp("hnsw")
    name, digest = build_snapshot(
        folder, Vectors((vectors,), ROWS), np.ones(ROWS, dtype=np.bool_), generation=1, dim=DIM
    )
    return folder, name, digest


def test_a_snapshot_is_searched_only_as_it_can_be(snapshot: tuple[Path, str, str]) -> None:
    loaded = load_snapshot(*snapshot, dim=DIM)
    for count in (0, ROWS + 1):
        with pytest.raises(ValueError, match=f"from 1 to {ROWS}, got {count}"):
            loaded.nearest(np.zeros((1, DIM), dtype=np.float32), count)
    for bad in (np.zeros((1, DIM + 1)), np.full((1, DIM), np.nan)):
        with pytest.raises(ValueError, match="finite and of width 16"):
            loaded.nearest(bad.astype(np.float32), 1)


@pytest.mark.parametrize(
    "damage", ["manifest", "index cut", "index altered", "index missing", "folder missing"]
)
def test_a_snapshot_that_is_not_as_written_is_not_loaded(
    snapshot: tuple[Path, str, str], tmp_path: Path, damage: str
) -> None:
    source, name, digest = snapshot
    shutil.copytree(source / name, tmp_path / name)
    index, manifest = tmp_path / name / "index.bin", tmp_path / name / "manifest.json"
    if damage == "manifest":
        manifest.write_text(manifest.read_text().replace('"rows": 1500', '"rows": 1501'))
    elif damage == "index cut":
        index.write_bytes(index.read_bytes()[:-4])
    elif damage == "index altered":
        data = bytearray(index.read_bytes())
        data[5000] ^= 1
        index.write_bytes(data)
    elif damage == "index missing":
        index.unlink()
    else:
        shutil.rmtree(tmp_path / name)
    with pytest.raises(CorruptIndexError):
        load_snapshot(tmp_path, name, digest, dim=DIM)


def test_crafted_files_are_refused_by_their_structure(
    snapshot: tuple[Path, str, str], tmp_path: Path
) -> None:
    good = (snapshot[0] / snapshot[1] / "index.bin").read_bytes()
    path = tmp_path / "index.bin"

    def refused(at: int, form: str, value: int) -> None:
        data = bytearray(good)
        struct.pack_into(form, data, at, value)
        path.write_bytes(data)
        with pytest.raises(CorruptIndexError):
            check_file(path, dim=DIM, elements=ROWS, rows=ROWS)

    path.write_bytes(good)
    check_file(path, dim=DIM, elements=ROWS, rows=ROWS)
    for at in range(0, 48, 8):  # sizes and counts of the header
        refused(at, "<Q", 10**6)
    refused(48, "<i", 77)  # highest level
    refused(52, "<I", ROWS)  # entry point
    refused(56, "<Q", 10**4)  # links per element
    refused(HEADER.size, "<H", 65)  # number of links of the first element
    refused(HEADER.size + 4, "<I", ROWS)  # its first link
    header = struct.unpack_from("<6Q", good)
    refused(HEADER.size + header[4], "<Q", ROWS)  # its label
    upper = HEADER.size + ROWS * header[3]
    refused(upper, "<I", 3)  # the size of its upper links
    refused(upper, "<I", 2**31)
    sizes = _upper_sizes(good, upper)
    first = next(i for i, size in enumerate(sizes) if size)
    link = upper + 4 * (first + 1) + 4
    refused(link, "<I", ROWS)  # an upper link to no element
    refused(link, "<I", sizes.index(0))  # and to one that is not on that level
    for length in (50, HEADER.size + 10, upper + 2, len(good) - 4):
        path.write_bytes(good[:length])
        with pytest.raises(CorruptIndexError):
            check_file(path, dim=DIM, elements=ROWS, rows=ROWS)


def _upper_sizes(data: bytes, at: int) -> list[int]:
    """Bytes of upper links of each element."""
    sizes: list[int] = []
    while at < len(data):
        sizes.append(struct.unpack_from("<I", data, at)[0])
        at += 4 + sizes[-1]
    return sizes


def test_while_another_writes_a_corrupt_index_is_left_aside(
    filled: KnowledgeBase, vectors: NDArray[np.float32]
) -> None:
    before = filled.search_vectors(vectors[:3], 5)
    next((filled.folder / "hnsw").glob("*/index.bin")).write_bytes(b"junk")
    with KnowledgeBase.open(filled.folder, encoder=HashingEncoder()) as other, filled.writing():
        with pytest.warns(RagInferWarning, match="not used, search is exact"):
            assert ids(other.search_vectors(vectors[:3], 5)) == ids(before)
        assert ids(other.search_vectors(vectors[:3], 5)) == ids(before)  # warned once
