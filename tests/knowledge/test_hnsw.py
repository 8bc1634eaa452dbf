"""The approximate index proposes; exact scores decide; whatever could crash hnswlib is refused before."""

from __future__ import annotations

import json
import shutil
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from rag_infer.errors import CorruptIndexError, RagInferWarning
from rag_infer.knowledge import KnowledgeBase, Passage
from rag_infer.knowledge import hnsw as hnsw_module
from rag_infer.knowledge import rebuild as rebuild_module
from rag_infer.knowledge.hnsw import build_snapshot, load_snapshot
from rag_infer.knowledge.hnsw_file import HEADER, check_file
from rag_infer.knowledge.snapshots import publish
from rag_infer.knowledge.vectors import Vectors
from rag_infer.knowledge.view import View
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
    assert filled.info()["recall"]["@10"] >= 0.98
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
    monkeypatch.setattr(rebuild_module, "AUTO_EXACT_PASSAGES", 100)
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
    publish(folder, name)
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


def clusters(count: int, seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)


def test_recall_is_measured_on_questions_that_are_given(filled: KnowledgeBase) -> None:
    queries = clusters(40, 8)
    assert filled.info()["recall_source"] == "stored"
    assert filled.build_index(queries=queries)
    assert not filled.build_index(queries=queries)  # nothing has changed: it is as it was measured
    filled.upsert([Passage(f"new {i}", "text") for i in range(200)], clusters(200, 5))
    assert filled.build_index(queries=queries)
    info = filled.info()
    assert (info["recall_queries"], info["recall_source"]) == (40, "given")
    filled.build_index("exact")
    exact = filled.search_vectors(queries, 50)
    filled.build_index("hnsw", queries=queries)
    found = filled.search_vectors(queries, 50)
    for k in (1, 5, 10, 50):
        true = np.mean(
            [
                len({p.id for p in a[:k]} & {p.id for p in b[:k]}) / k
                for a, b in zip(exact, found, strict=True)
            ]
        )
        assert filled.info()["recall"][f"@{k}"] == pytest.approx(true, abs=0.01)


def test_a_poor_graph_is_made_larger(filled: KnowledgeBase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hnsw_module, "GRAPHS", ((2, 2), (32, 200)))
    monkeypatch.setattr(hnsw_module, "LARGEST_EF", 1)
    filled.build_index("exact")
    assert filled.build_index("hnsw", min_recall=0.97)
    manifest = json.loads(next((filled.folder / "hnsw").glob("*/manifest.json")).read_text())
    assert (manifest["m"], manifest["ef_construction"]) == (32, 200)
    assert manifest["recall"]["@10"] >= 0.97


def test_a_graph_that_stays_poor_is_refused(
    filled: KnowledgeBase, vectors: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = filled.search_vectors(vectors[:3], 5)
    monkeypatch.setattr(hnsw_module, "GRAPHS", ((2, 2), (2, 3)))
    monkeypatch.setattr(hnsw_module, "LARGEST_EF", 1)
    filled.upsert([Passage(f"new {i}", "text") for i in range(200)], clusters(200, 5) * 0.01)
    message = r"no graph finds 0.95 of the 10 nearest of 200 held-out .* 0\.\d+ with M=2, efConstruction=2; 0\.\d+ with"
    old = filled.info()["indexed_rows"]
    with pytest.warns(RagInferWarning, match=message):
        assert not filled.build_index()
    assert filled.info()["indexed_rows"] == old  # the one that was good enough when it was made
    assert filled.search_vectors(vectors[:3], 5) == before
    filled.build_index("exact")
    with pytest.warns(RagInferWarning, match=message):
        assert not filled.build_index("hnsw")
    assert filled.info()["search"] == "exact"
    assert filled.search_vectors(vectors[:3], 5) == before
    assert not list((filled.folder / "hnsw").iterdir())
    filled.build_index(min_recall=0.0)
    assert filled.info()["search"] == "hnsw"
    with pytest.warns(RagInferWarning, match=message):
        assert filled.build_index(min_recall=0.95)
    assert filled.info()["search"] == "exact"  # known to be poor


@pytest.mark.parametrize("count", [1, 2, 6, 12])
def test_recall_of_few_passages(kb: KnowledgeBase, vectors: NDArray[np.float32], count: int) -> None:
    kb.upsert([Passage(str(i), "text") for i in range(count)], vectors[:count])
    kb.build_index("hnsw")
    assert kb.info()["recall"] == {f"@{k}": 1.0 for k in (1, 5, 10) if k < count}
    kb.build_index("exact")
    kb.build_index("hnsw", queries=vectors[-3:])
    assert kb.info()["recall"] == {f"@{k}": 1.0 for k in (1, 5, 10) if k <= count}


def test_passages_with_equal_vectors_count_for_each_other(kb: KnowledgeBase) -> None:
    same = np.repeat(clusters(3, 1), 40, axis=0)
    kb.upsert([Passage(str(i), "text") for i in range(120)], same)
    kb.build_index("hnsw")
    assert kb.info()["recall"] == {"@1": 1.0, "@5": 1.0, "@10": 1.0, "@50": pytest.approx(1.0, abs=0.5)}


def test_questions_as_texts_and_bad_ones(kb: KnowledgeBase) -> None:
    kb.upsert([Passage(str(i), f"word{i}") for i in range(30)])
    assert kb.build_index("hnsw", queries=["word3", "word4 word5"])
    assert (kb.info()["recall_queries"], kb.info()["recall_source"]) == (2, "given")
    with pytest.raises(ValueError, match="at least one question"):
        kb.build_index("hnsw", queries=[])
    for bad, error in (
        (np.zeros((1, DIM + 1), np.float32), ValueError),
        (np.full((1, DIM), np.nan, np.float32), ValueError),
        (np.zeros((1, DIM)), TypeError),
    ):
        with pytest.raises(error):
            kb.build_index("hnsw", queries=bad)


# What facts.md lists as seen to crash hnswlib or to make it lie, each through the doors of a knowledge base.


def test_an_empty_knowledge_base_never_gets_a_graph(kb: KnowledgeBase) -> None:
    """Calls before init: there is no index without elements."""
    assert not kb.build_index("hnsw")
    assert kb.search_vectors(np.ones((2, DIM), np.float32), 3) == [[], []]
    kb.upsert([Passage("a", "words")])
    kb.delete(["a"])
    assert not kb.build_index("hnsw")
    assert kb.search_vectors(np.ones((1, DIM), np.float32), 3) == [[]]


def test_graphs_have_links() -> None:
    """M=0 crashes; M and efConstruction are no settings of anybody's."""
    assert all(m >= 2 and ef >= m for m, ef in hnsw_module.GRAPHS)


@pytest.mark.parametrize("shape", [(1, DIM - 1), (1, DIM + 1), (DIM,), (1, 1, DIM)])
def test_queries_of_another_shape_do_not_reach_it(filled: KnowledgeBase, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="vectors must have the shape"):
        filled.search_vectors(np.ones(shape, np.float32), 3)
    snapshot = filled._index.of(filled_view(filled)).snapshot
    assert snapshot is not None
    with pytest.raises(ValueError, match="queries must be finite and of width 16"):
        snapshot.nearest(np.ones(shape, np.float32), 3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_does_not_reach_it(filled: KnowledgeBase, bad: float) -> None:
    vector = np.ones((1, DIM), np.float32)
    vector[0, 3] = bad
    with pytest.raises(ValueError, match="row 0 holds NaN or infinity"):
        filled.search_vectors(vector, 3)
    with pytest.raises(ValueError, match="row 0 holds NaN or infinity"):
        filled.upsert([Passage("bad", "text")], vector)
    assert len(filled) == ROWS


def test_no_queries_find_nothing(filled: KnowledgeBase) -> None:
    assert filled.search_vectors(np.empty((0, DIM), np.float32), 3) == []


def test_short_results_fall_back_to_the_exact_search(
    filled: KnowledgeBase, vectors: NDArray[np.float32]
) -> None:
    """What hnswlib does: it raises for the whole batch where it reaches fewer than k."""
    expected = filled.search_vectors(vectors[:3], 5)
    snapshot = filled._index.of(filled_view(filled)).snapshot
    assert snapshot is not None

    class Short:
        def knn_query(self, *_: object, **__: object) -> None:
            raise RuntimeError(
                "Cannot return the results in a contiguous 2D array. Probably ef or M is too small"
            )

    snapshot._index = Short()
    assert filled.search_vectors(vectors[:3], 5) == expected


def test_many_threads_search_one_graph_while_others_change(
    filled: KnowledgeBase, vectors: NDArray[np.float32]
) -> None:
    """Add during save, resize during search: a graph is never changed once it is made."""
    expected = filled.search_vectors(vectors[:8], 10)
    zeros = np.zeros((300, DIM), np.float32)  # nearer to no query than the ten
    with ThreadPoolExecutor(4) as pool:
        searches = [pool.submit(filled.search_vectors, vectors[:8], 10) for _ in range(20)]
        filled.upsert([Passage(f"zero {i}", "text") for i in range(300)], zeros)
        filled.build_index()
        searches += [pool.submit(filled.search_vectors, vectors[:8], 10) for _ in range(20)]
        assert all(search.result() == expected for search in searches)


def test_ef_is_set_on_a_loaded_graph(snapshot: tuple[Path, str, str]) -> None:
    loaded = load_snapshot(*snapshot, dim=DIM)
    assert loaded._index.ef == loaded.manifest.ef >= hnsw_module.SMALLEST_EF


def filled_view(kb: KnowledgeBase) -> View:
    with kb._record.reading() as connection:
        return kb._views.at(connection)


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("stop_after", ["drawing", "some", "all", "measuring"])
def test_building_stops_between_all_its_steps(
    vectors: NDArray[np.float32], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: str
) -> None:
    """After the draw of queries, within the graph, and after each measurement: never more than one step later."""
    monkeypatch.setattr(hnsw_module, "RECALL_WANTED", 2.0)  # which no graph reaches: all of ef are measured
    steps: list[str] = []
    for name in ("hold_out", "measure", "_write"):
        real = getattr(hnsw_module, name)
        monkeypatch.setattr(
            hnsw_module, name, lambda *a, real=real, name=name, **k: steps.append(name) or real(*a, **k)
        )

    def on_progress(count: int) -> None:
        steps.append(str(count))
        enough = {
            "drawing": 1,
            "some": 2,
            "all": 1 + -(-len(vectors) // hnsw_module.ROWS_PER_ADD),
            "measuring": 5,
        }
        if sum(step.isdigit() for step in steps) == enough[stop_after]:
            raise StoppedError

    with pytest.raises(StoppedError):
        build_snapshot(
            tmp_path,
            Vectors((vectors,), len(vectors)),
            np.ones(len(vectors), dtype=np.bool_),
            generation=1,
            dim=DIM,
            on_progress=on_progress,
        )
    chunks = ["512", "512", "476"]
    assert (
        steps
        == {
            "drawing": ["hold_out", "0"],
            "some": ["hold_out", "0", *chunks[:1]],
            "all": ["hold_out", "0", *chunks],
            "measuring": ["hold_out", "0", *chunks, "measure", "0"],
        }[stop_after]
    )
    assert not list(tmp_path.iterdir())
