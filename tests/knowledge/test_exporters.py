"""What is exported is what is there: read back by `Corpus`, and by Hugging Face's own ``datasets``."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rag_infer.errors import CorruptIndexError, KnowledgeBaseError
from rag_infer.knowledge import KnowledgeBase, Passage
from rag_infer.knowledge.importers import Corpus
from rag_infer.knowledge.revision import Revision
from tests.knowledge.encoders import HashingEncoder

ROOT = Path(__file__).parents[2]

PASSAGES = [
    Passage("a", "first words", "A title", {"year": 2020, "score": 2.0, "tags": ["x", None, True]}),
    Passage("b\t\n\u2028", 'line\nbreak \u2028 "quotes" \0 \\ é 😀'),
    Passage(
        "c", "third", metadata={"id": "other", "metadata": {"text": 1, "title": None}, "embeddings": [1]}
    ),
    Passage("d", "x", metadata={"": {}, "text": "of metadata"}),
]


@pytest.fixture
def filled(kb: KnowledgeBase) -> KnowledgeBase:
    kb.upsert(PASSAGES)
    kb.upsert([Passage(f"p{i}", f"word{i} text") for i in range(30)])
    kb.delete(["p3"])
    kb.upsert([Passage("a", "first words again", "A title", PASSAGES[0].metadata)])
    return kb


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz"])
def test_build_reads_back_the_same(filled: KnowledgeBase, tmp_path: Path, name: str) -> None:
    assert filled.export_jsonl(tmp_path / name) == 33
    with Corpus([tmp_path / name]) as corpus:
        passages = list(corpus)
    assert filled.get([p.id for p in passages]) == passages
    assert passages[-1].id == "a"  # by age
    with KnowledgeBase.create(tmp_path / "again", encoder=HashingEncoder()) as again:
        again.upsert(passages)
        assert again.search(["word5", "first"], k=33) == filled.search(["word5", "first"], k=33)
    assert {p.name for p in tmp_path.iterdir()} == {"again", "kb", name}


def test_embeddings_on_request(filled: KnowledgeBase, tmp_path: Path) -> None:
    filled.export_jsonl(tmp_path / "out.jsonl.gz", embeddings=True)
    with gzip.open(tmp_path / "out.jsonl.gz", "rt", encoding="utf-8") as stream:
        entries = [json.loads(line) for line in stream]
    vectors = HashingEncoder().encode(
        [f"{e['title']}. {e['text']}" if e["title"] else e["text"] for e in entries]
    )
    assert np.array([e["embeddings"] for e in entries], dtype=np.float32).tobytes() == vectors.tobytes()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_datasets_loads_the_folder(
    filled: KnowledgeBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr("rag_infer.knowledge.exporters.PASSAGES_PER_FILE", 16)
    monkeypatch.setattr("rag_infer.knowledge.exporters.PASSAGES_AT_ONCE", 8)
    assert filled.export_dataset(tmp_path / "set") == 33
    assert len(list((tmp_path / "set").glob("*.arrow"))) == 3
    loaded = datasets.load_from_disk(str(tmp_path / "set"))
    assert loaded.column_names == ["id", "title", "text", "metadata", "embeddings"]
    passages = [Passage(e["id"], e["text"], e["title"], json.loads(e["metadata"])) for e in loaded]
    assert filled.get([p.id for p in passages]) == passages
    # As transformers' CustomHFIndex does.
    loaded.set_format("numpy", columns=["embeddings"], output_all_columns=True)
    vectors = loaded[:]["embeddings"]
    assert (vectors.dtype, vectors.shape) == (np.float32, (33, 16))
    texts = [f"{p.title}. {p.text}" if p.title else p.text for p in passages]
    assert vectors.tobytes() == HashingEncoder().encode(texts).tobytes()
    assert loaded[5]["title"] == passages[5].title
    subset = loaded.select([3, 1]).to_list()
    assert [e["id"] for e in subset] == [passages[3].id, passages[1].id]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_empty_knowledge_base(kb: KnowledgeBase, tmp_path: Path) -> None:
    import datasets

    (tmp_path / "set").mkdir()
    assert kb.export_dataset(tmp_path / "set") == 0
    assert len(datasets.load_from_disk(str(tmp_path / "set"))) == 0
    assert kb.export_jsonl(tmp_path / "out.jsonl") == 0
    assert (tmp_path / "out.jsonl").read_bytes() == b""


def test_one_revision_while_another_writes(
    filled: KnowledgeBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every batch that is read, what is there is deleted and something else added."""
    before = {p.id: p for p in filled.search("words", k=100)}
    monkeypatch.setattr("rag_infer.knowledge.exporters.PASSAGES_AT_ONCE", 10)
    reading = Revision.entries

    def entries_read(revision: Revision, count: int) -> Iterator[Any]:
        for found in reading(revision, count):
            with KnowledgeBase.open(filled.folder, encoder=HashingEncoder()) as writer:
                writer.upsert([Passage(f"new{found[0].row}", "new words")])
                writer.delete([entry.id for entry in found])
            yield found

    monkeypatch.setattr(Revision, "entries", entries_read)
    filled.export_jsonl(tmp_path / "out.jsonl", embeddings=True)
    entries = [json.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    assert {e["id"] for e in entries} == set(before)
    assert len(filled) == 4


def test_what_exists_is_kept_and_failures_leave_nothing(filled: KnowledgeBase, tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_text("precious")
    with pytest.raises(KnowledgeBaseError, match="exists: choose another name"):
        filled.export_jsonl(tmp_path / "out.jsonl")
    with pytest.raises(KnowledgeBaseError, match="exists and is not an empty folder: choose another name"):
        filled.export_dataset(filled.folder)
    with pytest.raises(KnowledgeBaseError, match="could not be written"):
        filled.export_dataset(tmp_path / "out.jsonl" / "set")
    for path in (filled.folder / "vectors").iterdir():
        path.unlink()
    with pytest.raises(KnowledgeBaseError, match="has 0 bytes"):
        filled.export_dataset(tmp_path / "set")
    assert {p.name for p in tmp_path.iterdir()} == {"kb", "out.jsonl"}
    assert (tmp_path / "out.jsonl").read_text() == "precious"


def test_memory_is_bounded(tmp_path: Path) -> None:
    with KnowledgeBase.create(tmp_path / "kb", encoder=HashingEncoder(512), threads=1) as kb:
        text = "x" * 3000
        for start in range(0, 8000, 2000):
            vectors = np.ones((2000, 512), dtype=np.float32)
            kb.upsert([Passage(str(start + i), text) for i in range(2000)], vectors)
        tracemalloc.start()
        try:
            kb.export_dataset(tmp_path / "set")
            kb.export_jsonl(tmp_path / "out.jsonl")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert (tmp_path / "out.jsonl").stat().st_size > 24_000_000
    assert peak < 12_000_000


def test_a_damaged_vector_is_not_exported(filled: KnowledgeBase, tmp_path: Path) -> None:
    path = min((filled.folder / "vectors").iterdir())
    data = bytearray(path.read_bytes())
    data[70] ^= 64  # of the passage "b", which is in row 1
    path.write_bytes(data)
    for export in (partial(filled.export_jsonl, embeddings=True), filled.export_dataset):
        with pytest.raises(
            CorruptIndexError, match=r"vector of passage 'b.*' in row 1 is not as it was written"
        ):
            export(tmp_path / "out")
    assert filled.export_jsonl(tmp_path / "texts.jsonl") == 33
    assert {p.name for p in tmp_path.iterdir()} == {"kb", "texts.jsonl"}


def test_names_of_every_kind(filled: KnowledgeBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(KnowledgeBaseError, match="empty exists: choose another name"):
        filled.export_jsonl(tmp_path / "empty")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    filled.export_jsonl(tmp_path / "link")
    assert (tmp_path / "file").is_file()
    assert (tmp_path / "link").is_symlink()
    monkeypatch.chdir(tmp_path / "empty")
    assert filled.export_dataset(Path()) == 33
    assert (tmp_path / "empty" / "state.json").is_file()


def test_of_two_exports_to_one_name_the_first_is_kept(
    filled: KnowledgeBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading = Revision.entries

    def entries_read(revision: Revision, count: int) -> Iterator[Any]:
        (tmp_path / "out.jsonl").write_text("of a quicker one")
        yield from reading(revision, count)

    monkeypatch.setattr(Revision, "entries", entries_read)
    with pytest.raises(KnowledgeBaseError, match=r"out.jsonl exists: choose another name"):
        filled.export_jsonl(tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_text() == "of a quicker one"
    assert {p.name for p in tmp_path.iterdir()} == {"kb", "out.jsonl"}


EXPORT = """
import sys
from rag_infer.knowledge import KnowledgeBase
from rag_infer.knowledge.revision import Revision
def entries(revision, count):
    print("begun", flush=True)
    sys.stdin.read()
Revision.entries = entries
with KnowledgeBase.open(sys.argv[1]) as kb:
    kb.export_jsonl(sys.argv[2]) if sys.argv[3] == "jsonl" else kb.export_dataset(sys.argv[2])
"""


@pytest.mark.parametrize("form", ["jsonl", "dataset"])
def test_what_a_killed_export_leaves_is_removed_by_the_next(
    filled: KnowledgeBase, tmp_path: Path, form: str
) -> None:
    out = tmp_path / "out.gz"
    command = [sys.executable, "-c", EXPORT, str(filled.folder), str(out), form]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        assert filled.export_jsonl(tmp_path / "out.gz.2") == 33  # another name: that one goes on
        assert len(list(tmp_path.glob(".out.gz.*.unfinished"))) == 1
        process.kill()
    assert not out.exists()
    assert len(list(tmp_path.glob(".*"))) == 1
    assert (filled.export_jsonl if form == "jsonl" else filled.export_dataset)(out) == 33
    assert not list(tmp_path.glob(".*"))
