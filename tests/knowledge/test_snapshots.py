"""Snapshots are built beside writers, swapped in at once, held by who reads them, and removed by the next writer."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from rag_infer.errors import CorruptIndexError, KnowledgeBaseError, RagInferWarning
from rag_infer.knowledge import KnowledgeBase, Passage
from rag_infer.knowledge import hnsw as hnsw_module
from rag_infer.knowledge import index as index_module
from rag_infer.knowledge import loading as loading_module
from rag_infer.knowledge import rebuild as rebuild_module
from rag_infer.knowledge.snapshots import Hold, hold, remove_others
from tests.knowledge.encoders import HashingEncoder

ROOT = Path(__file__).parents[2]
DIM, ROWS = 16, 300


def passages(first: int, count: int) -> list[Passage]:
    return [Passage(str(i), f"text {i}") for i in range(first, first + count)]


def random_vectors(count: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)


def ids(kb: KnowledgeBase, k: int = 10) -> list[list[str]]:
    return [[p.id for p in found] for found in kb.search_vectors(random_vectors(3, 99), k)]


def names(kb: KnowledgeBase, kind: str = "hnsw") -> set[str]:
    return {path.name for path in (kb.folder / kind).iterdir()}


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def filled(kb: KnowledgeBase) -> KnowledgeBase:
    kb.upsert(passages(0, ROWS), random_vectors(ROWS))
    kb.build_index("hnsw", scan="int8")
    return kb


@pytest.fixture
def slow_build(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[threading.Event, threading.Event]]:
    """(set once a graph is begun, to be set to let it end)."""
    begun, go_on = threading.Event(), threading.Event()
    real = rebuild_module.build_snapshot

    def slow(*args: object, **options: object) -> object:
        begun.set()
        assert go_on.wait(30)
        return real(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(rebuild_module, "build_snapshot", slow)
    yield begun, go_on
    go_on.set()


def test_others_write_and_search_while_a_graph_is_built(
    filled: KnowledgeBase, slow_build: tuple[threading.Event, threading.Event]
) -> None:
    begun, go_on = slow_build
    before = names(filled)
    filled.upsert(passages(ROWS, 100), random_vectors(100, 1))
    builder = threading.Thread(target=filled.build_index)
    builder.start()
    assert begun.wait(30)
    with KnowledgeBase.open(filled.folder, encoder=HashingEncoder(), writer_timeout=1) as other:
        other.upsert(passages(1000, 20), random_vectors(20, 2))
        other.delete([str(i) for i in range(0, 50)])
        during = ids(other)
        with pytest.raises(KnowledgeBaseError, match="is being built an index for by process"):
            other.build_index(scan="float16")
        go_on.set()
        builder.join()
        assert names(filled) != before
        assert filled.info()["indexed_rows"] == ROWS + 100
        assert ids(filled) == ids(other) == during
        assert filled.search_vectors(random_vectors(20, 2)[3:4], 1)[0][0].id == "1003"
        assert "7" not in ids(filled, 1000)[0]
        filled.check()


def test_a_graph_of_rows_that_were_renumbered_is_built_again(
    filled: KnowledgeBase, slow_build: tuple[threading.Event, threading.Event]
) -> None:
    begun, go_on = slow_build
    filled.delete([str(i) for i in range(100)])
    builder = threading.Thread(target=filled.build_index)
    builder.start()
    assert begun.wait(30)
    with KnowledgeBase.open(filled.folder, encoder=HashingEncoder()) as other:
        real, other._index.rebuild.refresh = other._index.rebuild.refresh, lambda: False  # type: ignore[method-assign]
        other.compact()
        other._index.rebuild.refresh = real  # type: ignore[method-assign]
    go_on.set()
    builder.join()
    info = filled.info()
    assert (info["search"], info["indexed_rows"], info["scanned_as"]) == ("hnsw", 200, "int8")
    filled.check()
    assert not [name for name in names(filled) if name.endswith(".tmp")]


def test_what_a_reader_has_loaded_stays_until_it_lets_go(filled: KnowledgeBase) -> None:
    with KnowledgeBase.open(filled.folder) as reader:
        before = ids(reader)
        old = names(filled) | names(filled, "scan")
        filled.upsert(passages(ROWS, 100), random_vectors(100, 1) * 0.01)
        filled.build_index()
        held = names(filled) | names(filled, "scan")
        assert old < held
        assert len(held) == 4
        ids(reader)  # which loads the new ones
        filled.delete([str(ROWS)])
        assert not old & (names(filled) | names(filled, "scan"))
        assert ids(reader) == before


def test_a_reader_that_dies_holds_nothing(filled: KnowledgeBase) -> None:
    script = (
        "import sys, time\nimport numpy as np\nfrom rag_infer.knowledge import KnowledgeBase\n"
        "kb = KnowledgeBase.open(sys.argv[1])\n"
        "kb.search_vectors(np.ones((1, 16), dtype=np.float32), 1)\n"
        "print('loaded', flush=True)\ntime.sleep(60)\n"
    )
    command = [sys.executable, "-c", script, str(filled.folder)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "loaded\n"
        old = names(filled)
        filled.upsert(passages(ROWS, 100), random_vectors(100, 1))
        filled.build_index()
        assert old < names(filled)
        reader.send_signal(signal.SIGKILL)
        reader.wait()
        filled.delete(["1"])
        assert not old & names(filled)


def test_half_made_builds_of_the_dead_are_removed_and_those_of_the_living_are_not(
    filled: KnowledgeBase,
) -> None:
    for kind in ("hnsw", "scan"):
        (filled.folder / kind / "000001-0000000300-abcd.tmp").mkdir()
        (filled.folder / kind / "000001-0000000300-ef01").mkdir()  # published, and its builder died then
    descriptor = os.open(filled.folder / "build.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)  # somebody builds
    filled.delete(["1"])
    assert "000001-0000000300-abcd.tmp" in names(filled)
    assert "000001-0000000300-ef01" not in names(filled)
    os.close(descriptor)
    filled.delete(["2"])
    assert all(len(names(filled, kind)) == 1 for kind in ("hnsw", "scan"))


def test_a_killed_builder_leaves_nothing_that_counts(filled: KnowledgeBase, tmp_path: Path) -> None:
    script = (
        "import sys, os, signal\nimport rag_infer.knowledge.hnsw as hnsw\n"
        "from rag_infer.knowledge import KnowledgeBase\n"
        "def die(*a, **o): os.kill(os.getpid(), signal.SIGKILL)\n"
        "hnsw.write_manifest = die\n"
        "KnowledgeBase.open(sys.argv[1]).build_index('hnsw')\n"
    )
    filled.upsert(passages(ROWS, 100), random_vectors(100, 1))
    before = ids(filled)
    done = subprocess.run([sys.executable, "-c", script, str(filled.folder)], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert any(name.endswith(".tmp") for name in names(filled))
    assert ids(filled) == before
    filled.check()
    assert filled.build_index()
    assert not any(name.endswith(".tmp") for name in names(filled))
    assert ids(filled) == before


def test_in_the_background(tmp_path: Path) -> None:
    with KnowledgeBase.create(
        tmp_path / "kb", encoder=HashingEncoder(), index="hnsw", scan="int8", background_index=True
    ) as kb:
        kb.upsert(passages(0, ROWS), random_vectors(ROWS))
        eventually(lambda: kb.info()["indexed_rows"] == ROWS)
        kb.upsert(passages(ROWS, 10), random_vectors(10, 1))  # too few to bother
        kb.upsert(passages(ROWS + 10, 100), random_vectors(100, 1))
        eventually(lambda: kb.info()["indexed_rows"] == ROWS + 110)
        kb.delete([str(i) for i in range(200)])
        eventually(lambda: kb.info()["indexed_rows"] == ROWS - 90)
        kb.check()
    assert not [t for t in threading.enumerate() if t.name == "rag_infer index"]


def test_closing_stops_the_background_within_a_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hnsw_module, "ROWS_PER_ADD", 1)
    kb = KnowledgeBase.create(tmp_path / "kb", encoder=HashingEncoder(), index="hnsw", background_index=True)
    begun = threading.Event()
    real = hnsw_module._empty_index

    def noticed(*args: object) -> object:
        begun.set()
        time.sleep(0.2)
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(hnsw_module, "_empty_index", noticed)
    kb.upsert(passages(0, ROWS), random_vectors(ROWS))
    assert begun.wait(30)
    kb.close()
    assert names(kb) == set()
    with KnowledgeBase.open(kb.folder) as again:
        assert again.info()["search"] == "exact"


def test_an_error_in_the_background_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise KnowledgeBaseError("no room for it")

    monkeypatch.setattr(rebuild_module, "build_snapshot", fails)
    with pytest.warns(RagInferWarning, match="not renewed in the background: no room for it"):  # noqa: PT031, SIM117
        with KnowledgeBase.create(
            tmp_path / "kb", encoder=HashingEncoder(), index="hnsw", background_index=True
        ) as kb:
            kb.upsert(passages(0, 30), random_vectors(30))
            eventually(lambda: not kb._index._background._changed.is_set())  # type: ignore[union-attr]
            assert len(ids(kb)[0]) == 10


def test_large_snapshots_are_loaded_beside_searches(
    filled: KnowledgeBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = ids(filled)
    monkeypatch.setattr(loading_module, "LOAD_AT_ONCE_BYTES", 0)
    go_on = threading.Event()
    real = index_module.load_snapshot

    def slow(*args: object, **options: object) -> object:
        assert go_on.wait(30)
        return real(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(index_module, "load_snapshot", slow)
    with KnowledgeBase.open(filled.folder) as reader:
        assert ids(reader) == expected  # exact, at once
        assert reader._index._graphs._loaded is None
        go_on.set()
        reader._index._graphs.wait()
        loaded = reader._index._graphs._loaded
        assert loaded is not None
        assert ids(reader) == expected
        go_on.clear()
        filled.upsert(passages(ROWS, 100), random_vectors(100, 1) * 0.01)
        filled.build_index()
        assert ids(reader) == expected
        assert reader._index._graphs._loaded is loaded  # the old one, while the new one is being loaded
        go_on.set()
        reader._index._graphs.wait()
        assert reader._index._graphs._loaded is not loaded
        assert ids(reader) == expected


def test_a_large_one_that_is_corrupt_is_made_anew_beside_searches(
    filled: KnowledgeBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = ids(filled)
    monkeypatch.setattr(loading_module, "LOAD_AT_ONCE_BYTES", 0)
    (snapshot,) = (filled.folder / "hnsw").iterdir()
    (snapshot / "index.bin").write_bytes(b"junk")
    with KnowledgeBase.open(filled.folder) as reader:
        with pytest.warns(RagInferWarning, match="corrupt index made anew"):  # noqa: PT031
            assert ids(reader) == expected
            reader._index._graphs.wait()
        assert ids(reader) == expected
        reader._index._graphs.wait()
        assert ids(reader) == expected
        reader.check()


def test_a_snapshot_that_is_being_removed_cannot_be_held(tmp_path: Path) -> None:
    (tmp_path / "kind" / "a").mkdir(parents=True)
    (tmp_path / "kind" / "a" / "in_use").touch()
    held = hold(tmp_path / "kind" / "a")
    remove_others(tmp_path / "kind", "")
    assert (tmp_path / "kind" / "a").exists()
    held.release()
    held.release()
    descriptor = os.open(tmp_path / "kind" / "a" / "in_use", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(CorruptIndexError, match="is being removed"):
        hold(tmp_path / "kind" / "a")
    os.close(descriptor)
    remove_others(tmp_path / "kind", "")
    assert not (tmp_path / "kind" / "a").exists()
    Hold(None).release()
