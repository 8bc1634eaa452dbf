"""Encoding on a real Ray cluster: what a local build stores, byte for byte, whoever dies. In processes of their own."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rag_infer.bundle import MANIFEST, Bundle, record_files
from rag_infer.knowledge import KnowledgeBase
from rag_infer.knowledge.distributed.cluster import LOOPBACK_ONLY
from tests.knowledge.tiny_bundle import WORDS, make_tiny_bundle

ROOT = Path(__file__).parents[2]
PASSAGES = 1000
BATCH = 40
SECONDS_TO_DIE = 30

SECONDS = 300

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Marked:
    """Runs processes that can be told, with all that they start, from others."""

    mark: str

    def environment(self) -> dict[str, str]:
        # Ray replaces 127.0.0.1 by another address of this machine, where the cluster of these tests does not listen.
        return {**os.environ, **LOOPBACK_ONLY, "RAG_INFER_TEST_MARK": self.mark}

    def run(self, *words: object, status: int = 0) -> str:
        """Run ``python -m ...``; returns what it printed, on stderr where it fails."""
        command = [sys.executable, "-m", *map(str, words)]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )
        assert done.returncode == status, done.stderr
        if status:
            assert done.stderr.count("\n") == 1, done.stderr
            return done.stderr
        assert done.stderr == ""
        return done.stdout

    def index(self, verb: str, *words: object, status: int = 0) -> str:
        options = ("--threads", 1, "--batch-size", BATCH) if verb in ("build", "add") else ()
        return self.run("rag_infer.cli.main", "index", verb, *words, *options, status=status)

    def alive(self) -> dict[int, str]:
        """The processes, each with what it was started as."""
        found = {}
        for folder in Path("/proc").iterdir():
            try:
                if folder.name.isdigit() and self.mark.encode() in (folder / "environ").read_bytes():
                    said = (folder / "cmdline").read_bytes()
                    found[int(folder.name)] = said.replace(b"\0", b" ").decode()[:100]
            except OSError:
                continue
        return found

    def check_none_is_left(self) -> None:
        deadline = time.monotonic() + SECONDS_TO_DIE
        while (left := self.alive()) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert left == {}


@pytest.fixture(scope="module")
def marked() -> Marked:
    pytest.importorskip("ray") if not os.environ.get("CI") else None
    return Marked(uuid.uuid4().hex)


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[str, Marked]]:
    """One of two nodes with two processors each: its address, and its processes."""
    mine = Marked(uuid.uuid4().hex)
    with subprocess.Popen(
        [sys.executable, "-m", "tests.knowledge.ray_cluster_process"],
        cwd=ROOT,
        env=mine.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address, "the cluster of the tests has not started"
        yield address, mine
        process.communicate()
    mine.check_none_is_left()


@pytest.fixture(scope="module")
def address(cluster: tuple[str, Marked]) -> str:
    return cluster[0]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_bundle(tmp_path_factory.mktemp("bundle") / "bundle")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = random.Random(0)
    texts = (" ".join(words.choices(WORDS, k=words.randint(1, 30))) for _ in range(PASSAGES))
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    path.write_text("".join(json.dumps({"_id": f"p{i}", "text": t}) + "\n" for i, t in enumerate(texts)))
    return path


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory, marked: Marked, bundle: Path, corpus: Path) -> Path:
    """A knowledge base that was built without Ray."""
    folder = tmp_path_factory.mktemp("local") / "kb"
    marked.index("build", folder, corpus, "--bundle", bundle)
    return folder


def vectors(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "vectors").iterdir())}


def rows(folder: Path, bundle: Path) -> list[Any]:
    with KnowledgeBase.open(folder, bundle=bundle, threads=1) as kb:
        kb.check()
        assert len(kb) == PASSAGES
        return [(p.id, p.text, p.score) for p in kb.search("deep blue sea", k=PASSAGES)]


def test_killed_workers_change_nothing(
    tmp_path: Path, marked: Marked, address: str, bundle: Path, corpus: Path, local: Path
) -> None:
    module = "tests.knowledge.ray_killing_process"
    done = json.loads(marked.run(module, address, tmp_path / "kb", corpus, bundle, BATCH))
    assert len(set(done["killed"])) == 2
    assert len(done["workers"]) >= 4, done
    assert set(done["killed"]) < set(done["workers"]), "another took over"
    assert sum(done["workers"].values()) == done["batches"] == PASSAGES // BATCH
    assert done["encoded_here"] == 0
    assert vectors(tmp_path / "kb") == vectors(local)
    assert rows(tmp_path / "kb", bundle) == rows(local, bundle)
    # The vectors count as encoded: those that are damaged can be made again.
    segment = next((tmp_path / "kb" / "vectors").iterdir())
    segment.write_bytes(bytes(100) + segment.read_bytes()[100:])
    marked.index("check", tmp_path / "kb", "--repair", "--bundle", bundle)
    assert vectors(tmp_path / "kb") == vectors(local)
    marked.check_none_is_left()


def test_a_build_is_begun_finished_and_continued(
    tmp_path: Path, marked: Marked, address: str, bundle: Path, corpus: Path, local: Path
) -> None:
    lines = corpus.read_text().splitlines(keepends=True)
    begun, kb = tmp_path / "begun.jsonl", tmp_path / "kb"
    begun.write_text("".join(lines[: 5 * BATCH + 7]) + "no passage\n")
    options = ("--bundle", bundle, "--ray", address)
    assert "line 208" in marked.index("build", kb, begun, *options, status=1)
    with KnowledgeBase.open(kb) as opened:
        assert len(opened) == 5 * BATCH, "as a build without Ray, all batches before the bad line"
    copy = shutil.copytree(kb, tmp_path / "copy")
    done = json.loads(marked.index("build", kb, corpus, *options, "--json"))
    assert (done["added"], done["unchanged"]) == (PASSAGES - 5 * BATCH, 5 * BATCH)
    assert vectors(kb) == vectors(local)
    # A text that the first batch replaces is a duplicate no more in the second, in which nothing else is new.
    changed = tmp_path / "changed.jsonl"
    batches = [[line.replace("p", name, 1) for line in lines[:BATCH]] for name in "qr"]
    batches[0][0] = lines[0].replace('"text": "', '"text": "red ')
    changed.write_text("".join([*batches[0], *batches[1], *lines[5 * BATCH :]]))
    kb = shutil.copytree(copy, tmp_path / "another")
    add = ("--deduplicate", "--json", "--bundle", bundle)
    alone = json.loads(marked.index("add", copy, changed, *add))
    assert (alone["replaced"], alone["unchanged"]) == (1, 0)
    done = json.loads(marked.index("add", kb, changed, *add, "--ray", address))
    assert done | {"seconds": 0} == alone | {"seconds": 0}
    assert vectors(kb) == vectors(copy)
    with KnowledgeBase.open(kb) as opened:
        assert opened.get(["r0"]) != [None]


def test_where_no_worker_can_start_nobody_waits_for_ever(
    tmp_path: Path, marked: Marked, address: str, bundle: Path, corpus: Path
) -> None:
    module = "tests.knowledge.ray_busy_process"
    said = marked.run(module, address, tmp_path / "kb", corpus, bundle, BATCH)
    assert "no Ray worker has given a sign of life for" in said
    assert "and batch 0 is not encoded" in said


def test_what_fails_on_every_worker_is_told(
    tmp_path: Path, marked: Marked, address: str, corpus: Path
) -> None:
    broken = make_tiny_bundle(tmp_path / "broken")
    (broken / "passage_encoder").mkdir(exist_ok=True)
    manifest = Bundle.load(broken).manifest
    part = manifest.passage_encoder
    assert part is not None
    (broken / part.path / part.graph).write_bytes(b"no graph")
    manifest.files.clear()
    manifest.files.update(record_files(broken))
    (broken / MANIFEST).write_text(manifest.to_json())
    said = marked.index("build", tmp_path / "kb", corpus, "--bundle", broken, "--ray", address, status=1)
    assert "encoding on the Ray worker" in said
    assert "BundleError" in said
    assert "cannot be loaded by ONNX Runtime" in said
    said = marked.run(
        *("rag_infer.cli.main", "index", "build", tmp_path / "kb", corpus, "--bundle", broken),
        *("--ray", address, "--threads", 3),
        status=1,
    )
    assert "a worker takes 3 processors" in said
    assert "has 2: give fewer with --threads" in said


@pytest.mark.real_model
def test_real_model(
    tmp_path: Path, marked: Marked, address: str, demo_bundle: Path, wiki_summaries: Path
) -> None:
    articles = list(json.loads(wiki_summaries.read_text(encoding="utf-8")).values())[: 4 * BATCH]
    entries = [{"_id": a["title"], "title": a["title"], "text": a["extract"]} for a in articles]
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    marked.index("build", tmp_path / "local", corpus, "--bundle", demo_bundle)
    marked.index("build", tmp_path / "kb", corpus, "--bundle", demo_bundle, "--ray", address)
    assert vectors(tmp_path / "kb") == vectors(tmp_path / "local")


def test_a_ray_of_its_own(tmp_path: Path, marked: Marked, bundle: Path, corpus: Path, local: Path) -> None:
    marked.index("build", tmp_path / "kb", corpus, "--bundle", bundle, "--ray", "local")
    assert vectors(tmp_path / "kb") == vectors(local)
    marked.check_none_is_left()


def test_a_cluster_that_goes_away_ends_the_build(
    tmp_path: Path, marked: Marked, cluster: tuple[str, Marked], bundle: Path, corpus: Path
) -> None:
    """The last test, for the cluster of this module is gone after it. Batches of one passage, to be in the middle."""
    kb = tmp_path / "kb"
    words = ("index", "build", kb, corpus, "--bundle", bundle, "--ray", cluster[0], "--batch-size", 1)
    with subprocess.Popen(
        [sys.executable, "-m", "rag_infer.cli.main", *map(str, words), "--threads", "1"],
        cwd=ROOT,
        env=marked.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as build:
        while not list(kb.glob("vectors/*")) and build.poll() is None:
            time.sleep(0.1)
        for process, said in cluster[1].alive().items():
            if "/raylet/raylet " in said:
                os.kill(process, signal.SIGKILL)
        _, said = build.communicate(timeout=SECONDS)
    assert build.returncode == 1
    assert said.startswith("rag-infer: error: the Ray cluster has gone away: "), said
    assert said.count("\n") == 1, said
    with KnowledgeBase.open(kb, bundle=bundle, threads=1) as opened:
        opened.check()
        assert 0 < len(opened) < PASSAGES
    marked.check_none_is_left()
