"""``rag-infer index backup``, ``export`` and ``import-vectors``, in processes of their own."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rag_infer.cli.main import main
from rag_infer.knowledge import KnowledgeBase
from rag_infer.knowledge.verification import Verification
from tests.cli.indexing import index, index_json, write_corpus
from tests.knowledge.tiny_bundle import DIM


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus.jsonl", 30)


@pytest.fixture
def kb(tmp_path: Path, bundle: Path, corpus: Path) -> Path:
    index("build", tmp_path / "kb", corpus, "--bundle", bundle)
    return tmp_path / "kb"


def test_backup(kb: Path, tmp_path: Path) -> None:
    said = index("backup", kb, tmp_path / "copy")
    assert said.startswith(f"{tmp_path / 'copy'}: 30 passages of revision 1, ")
    assert said.endswith(" bytes, checked\n")
    assert index_json("check", tmp_path / "copy")["passages"] == 30
    assert "is not an empty folder: choose another" in index("backup", kb, tmp_path / "copy", status=1)
    assert index_json("backup", kb, tmp_path / "other")["revision"] == 1
    assert "no knowledge base at" in index("backup", tmp_path / "none", tmp_path / "copy2", status=1)


@pytest.mark.parametrize("verb", ["check", "backup"])
def test_what_checks_everything_verifies_nothing_beside_it(
    kb: Path, tmp_path: Path, verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ways = []
    real = Verification.__init__

    def noted(self: Verification, check: Any, folder: Path, way: str) -> None:
        ways.append(way)
        real(self, check, folder, way)

    monkeypatch.setattr(Verification, "__init__", noted)
    out = [str(tmp_path / "copy")] if verb == "backup" else []
    assert main(["index", verb, str(kb), *out]) == 0
    assert ways == ["never"]
    assert "30 passages" in capsys.readouterr().out


def test_export_and_build_again(kb: Path, bundle: Path, tmp_path: Path) -> None:
    assert index("export", kb, tmp_path / "out.jsonl.gz") == f"{tmp_path / 'out.jsonl.gz'}: 30 passages\n"
    done = index_json("build", kb, tmp_path / "out.jsonl.gz", "--bundle", bundle)
    assert (done["unchanged"], done["passages"]) == (30, 30)
    assert "exists: choose another name" in index("export", kb, tmp_path / "out.jsonl.gz", status=1)
    assert index_json("export", kb, tmp_path / "all.jsonl", "--embeddings")["passages"] == 30
    line = json.loads((tmp_path / "all.jsonl").read_text().splitlines()[0])
    assert len(line["embeddings"]) == DIM
    words = ("export", kb, tmp_path / "set", "--format", "dataset")
    assert "--embeddings is for JSON lines" in index(*words, "--embeddings", status=2)


def test_an_exported_dataset_makes_the_same_knowledge_base(kb: Path, bundle: Path, tmp_path: Path) -> None:
    index("export", kb, tmp_path / "set", "--format", "dataset")
    done = index_json(
        "import-vectors", tmp_path / "again", tmp_path / "set", "--bundle", bundle, "--index", "hnsw"
    )
    assert {name: done[name] for name in ("added", "passages", "without_vector")} == {
        "added": 30,
        "passages": 30,
        "without_vector": 0,
    }
    assert index_json("info", tmp_path / "again")["search"] == "hnsw"
    with (
        KnowledgeBase.open(kb, bundle=bundle) as one,
        KnowledgeBase.open(tmp_path / "again", bundle=bundle) as two,
    ):
        assert one.get([f"p{i}" for i in range(30)]) == two.get([f"p{i}" for i in range(30)])
        assert one.search("deep sea", k=30) == two.search("deep sea", k=30)


def test_vectors_of_dpr(corpus: Path, bundle: Path, tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((30, DIM)).astype(np.float32)
    for part in range(3):
        pairs = [(f"p{i}", vectors[i]) for i in range(part, 27, 3)]
        (tmp_path / f"vectors_{part}").write_bytes(pickle.dumps(pairs))
    words = ("import-vectors", tmp_path / "kb", *(tmp_path / f"vectors_{part}" for part in range(3)))
    said = index(*words, "--passages", corpus, "--bundle", bundle)
    assert said.startswith(f"{tmp_path / 'kb'}: 27 passages (27 added, 0 replaced, 0 unchanged) in ")
    assert said.endswith("\n3 passages have no vector and were left out\n")
    again = index_json(*words, "--passages", corpus, "--bundle", bundle)
    assert (again["added"], again["unchanged"]) == (0, 27)
    with KnowledgeBase.open(tmp_path / "kb", bundle=bundle) as kb:
        found, _ = kb.search_revision(vectors[7:8], 27)
        scores = {p.id: p.score for p in found[0]}
        assert len(scores) == 27
        assert scores["p5"] == pytest.approx(float(kb_score(kb, vectors, 5, 7)), rel=1e-5)


def kb_score(kb: KnowledgeBase, vectors: np.ndarray, passage: int, query: int) -> float:
    """The similarity in double."""
    one, other = vectors[passage].astype(np.float64), vectors[query].astype(np.float64)
    if kb.settings.similarity == "cosine":
        return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))
    return float(one @ other)


def test_what_is_refused(kb: Path, corpus: Path, bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "vectors"
    path.write_bytes(b"cos\nsystem\n(S'touch executed'\ntR.")
    words = ("import-vectors", kb, path, "--passages", corpus, "--bundle", bundle)
    assert f"{path}, byte 12: the opcode b'S' has no place" in index(*words, status=1)
    path.write_bytes(pickle.dumps([("p0", np.ones(3, np.float32))]))
    assert f"{path}, vector 0: 3 dimensions, the knowledge base has {DIM}" in index(*words, status=1)
    words = ("import-vectors", kb, path, "--bundle", bundle)
    assert "name the passages too (--passages)" in index(*words, status=1)
    assert index_json("info", kb)["revision"] == 1
    words = ("import-vectors", tmp_path / "new", path, "--bundle", bundle)
    assert "name the passages too (--passages)" in index(*words, status=1)
    assert not (tmp_path / "new").exists()
