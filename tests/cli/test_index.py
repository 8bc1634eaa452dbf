"""``rag-infer index`` from corpus files to a knowledge base, in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rag_infer.knowledge import KnowledgeBase
from tests.cli.indexing import ROOT, command, index, index_json, write_corpus
from tests.knowledge.tiny_bundle import WORDS, make_tiny_bundle


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus.jsonl", 300)


@pytest.fixture
def kb(tmp_path: Path, bundle: Path, corpus: Path) -> Path:
    """A knowledge base of 300 passages."""
    index("build", tmp_path / "kb", corpus, "--bundle", bundle)
    return tmp_path / "kb"


def test_build_makes_a_knowledge_base_that_answers(kb: Path, bundle: Path, corpus: Path) -> None:
    entries = [json.loads(line) for line in corpus.read_text().splitlines()]
    with KnowledgeBase.open(kb, bundle=bundle) as opened:
        assert len(opened) == 300
        found = opened.get(["p0", "p299"])
        assert [p.text for p in found if p] == [entries[0]["text"], entries[299]["text"]]
        assert {p.metadata["third"] for p in opened.search("deep sea", k=50, where={"third": 2})} == {2}
        opened.check()


def test_building_again_is_no_work(kb: Path, bundle: Path, corpus: Path) -> None:
    revision = index_json("info", kb)["revision"]
    done = index_json("build", kb, corpus, "--bundle", bundle)
    assert (done["added"], done["unchanged"], done["passages"]) == (0, 300, 300)
    assert index_json("info", kb)["revision"] == revision


def test_add_replaces_what_has_changed(kb: Path, bundle: Path, corpus: Path, tmp_path: Path) -> None:
    lines = corpus.read_text().splitlines()[:10]
    lines[3] = json.dumps({"_id": "p3", "text": "blue sky"})
    lines.append(json.dumps({"_id": "new", "text": "red mat"}))
    (tmp_path / "more.jsonl").write_text("\n".join(lines))
    done = index_json("add", kb, tmp_path / "more.jsonl", "--bundle", bundle)
    assert {k: done[k] for k in ("added", "replaced", "unchanged")} == {
        "added": 1,
        "replaced": 1,
        "unchanged": 9,
    }
    assert "301 passages" in index("add", kb, tmp_path / "more.jsonl", "--bundle", bundle)


def test_delete_reports_unknown_ids(kb: Path) -> None:
    assert index("delete", kb, "p1", "nobody", "p2") == "deleted 2 passages, 298 left\nunknown id: nobody\n"
    assert index_json("delete", kb, "p1", "p4") == {"deleted": ["p4"], "unknown": ["p1"], "passages": 297}


def test_info_check_and_compact(kb: Path) -> None:
    index("delete", kb, *(f"p{i}" for i in range(200)))
    assert "dead_rows         200" in index("info", kb)
    assert "100 passages, 300 vectors" in index("check", kb)
    sizes = index_json("compact", kb)
    assert sizes["bytes_after"] < sizes["bytes_before"]
    report = index_json("check", kb)
    assert (report["passages"], report["rows"]) == (100, 100)


def test_an_index_that_is_asked_for_is_made(kb: Path, bundle: Path, corpus: Path) -> None:
    assert index_json("info", kb)["search"] == "exact"
    index("build", kb, corpus, "--bundle", bundle, "--index", "hnsw")
    info = index_json("info", kb)
    assert (info["index"], info["search"], info["indexed_rows"]) == ("hnsw", "hnsw", 300)
    assert info["recall"]["@10"] >= 0.98
    assert (info["recall_queries"], info["recall_source"]) == (200, "stored")


def test_codes_and_recall_on_questions_that_are_given(
    kb: Path, bundle: Path, corpus: Path, tmp_path: Path
) -> None:
    questions = tmp_path / "questions.txt"
    questions.write_text("\n".join(WORDS[:7]))
    options = ("--bundle", bundle, "--index", "hnsw", "--scan", "int8", "--min-recall", "0.5")
    index("build", kb, corpus, *options, "--queries", questions)
    info = index_json("info", kb)
    assert (info["scan"], info["scanned_as"], info["min_recall"]) == ("int8", "int8", 0.5)
    assert (info["recall_queries"], info["recall_source"]) == (7, "given")
    assert list(info["recall"]) == ["@1", "@5", "@10", "@50"]
    assert "recall            @1 " in index("info", kb)
    assert "300 passages" in index("check", kb)
    assert "from 0 to 1, got 7" in index("build", kb, corpus, *options[:-1], "7", status=2)


def test_check_tells_and_repair_mends(kb: Path, bundle: Path) -> None:
    segment = next((kb / "vectors").iterdir())
    data = bytearray(segment.read_bytes())
    data[40] ^= 255
    segment.write_bytes(data)
    assert "differ from their checksum; 'rag-infer index check KB --repair'" in index("check", kb, status=1)
    assert "encoded 300 vectors again" in index("check", kb, "--repair", "--bundle", bundle)
    os.truncate(segment, 1000)
    assert "has 1,000 bytes, 28,800 are recorded" in index("info", kb, status=1)
    index("check", kb, "--repair", "--bundle", bundle)
    index("check", kb)


def test_bad_lines_stop_or_are_counted(tmp_path: Path, bundle: Path) -> None:
    corpus = tmp_path / "bad.jsonl"
    corpus.write_bytes(b'{"_id": "a", "text": "red"}\n{"_id": "b"}\n\xff\n{"_id": "c", "text": "sea"}\n')
    message = index("build", tmp_path / "kb", corpus, "--bundle", bundle, status=1)
    assert f"{corpus}, line 2: no text in passage 'b'" in message
    done = index_json("build", tmp_path / "kb", corpus, "--bundle", bundle, "--skip-bad-lines")
    assert done["skipped"] == {"no text": 1, "not UTF-8": 1}
    assert done["passages"] == 2


def test_misuse_and_absence(tmp_path: Path, kb: Path, bundle: Path, corpus: Path) -> None:
    assert "no knowledge base at" in index("info", tmp_path / "none", status=1)
    assert "no knowledge base at" in index("add", tmp_path / "none", corpus, "--bundle", bundle, status=1)
    assert "no such corpus file" in index("add", kb, tmp_path / "none.jsonl", "--bundle", bundle, status=1)
    assert "no bundle at" in index("add", kb, corpus, "--bundle", tmp_path / "none", status=1)
    message = index("add", kb, corpus, "--bundle", bundle, "--batch-size", 0, status=2)
    assert "--batch-size must be at least 1, got 0" in message
    other = make_tiny_bundle(tmp_path / "other", seed=1)
    assert "was made with the encoder" in index("build", kb, corpus, "--bundle", other, status=1)
    assert not (tmp_path / "none").exists()


def heed_interrupts() -> None:
    """A shell's background jobs ignore SIGINT, and their children with them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_build_that_was_stopped_is_finished(tmp_path: Path, bundle: Path, how: signal.Signals) -> None:
    corpus = write_corpus(tmp_path / "corpus.jsonl", 4000)
    words = ["build", tmp_path / "kb", corpus, "--bundle", bundle, "--batch-size", 2]
    with subprocess.Popen(
        command(*words), cwd=ROOT, stderr=subprocess.PIPE, text=True, preexec_fn=heed_interrupts
    ) as process:
        committed = 0
        while committed < 50 and process.poll() is None:
            time.sleep(0.01)
            if (tmp_path / "kb").exists():
                with KnowledgeBase.open(tmp_path / "kb") as kb:
                    committed = len(kb)
        process.send_signal(how)
        _, said = process.communicate()
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert said == "rag-infer: interrupted; what was committed is kept\n"
    done = index_json("build", tmp_path / "kb", corpus, "--bundle", bundle)
    assert done["passages"] == 4000
    assert 50 <= done["unchanged"] < 4000
    assert done["added"] == 4000 - done["unchanged"]
    assert index_json("check", tmp_path / "kb")["rows"] == 4000  # nothing was written twice


def test_options_stand_before_or_after_the_verb(kb: Path) -> None:
    before = subprocess.run(
        [sys.executable, "-m", "rag_infer.cli.main", "index", "--json", "info", str(kb)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(before.stdout) == index_json("info", kb)


@pytest.mark.real_model
def test_real_model(tmp_path: Path, demo_bundle: Path, wiki_summaries: Path) -> None:
    articles = list(json.loads(wiki_summaries.read_text(encoding="utf-8")).values())[:64]
    with (tmp_path / "corpus.jsonl").open("w", encoding="utf-8") as stream:
        for article in articles:
            entry = {"_id": article["title"], "title": article["title"], "text": article["extract"]}
            stream.write(json.dumps(entry) + "\n")
    index("build", tmp_path / "kb", tmp_path / "corpus.jsonl", "--bundle", demo_bundle)
    with KnowledgeBase.open(tmp_path / "kb", bundle=demo_bundle) as kb:
        for article in articles[::16]:
            best = kb.search(f"What is {article['title']}?", k=1)[0]
            assert best.id == article["title"]
            assert 0.3 < best.score < 1
