"""Running ``rag-infer index`` in a process of its own, and the corpus it is given."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.knowledge.tiny_bundle import WORDS

ROOT = Path(__file__).parents[2]


def write_corpus(path: Path, count: int) -> Path:
    words = random.Random(0)
    with path.open("w", encoding="utf-8") as stream:
        for i in range(count):
            text = " ".join(words.choices(WORDS, k=words.randint(1, 12)))
            entry = {"_id": f"p{i}", "title": f"number {i}", "text": text, "third": i % 3}
            stream.write(json.dumps(entry) + "\n")
    return path


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "rag_infer.cli.main", "index", *map(str, words)]


def index(*words: object, status: int = 0) -> str:
    """Run ``rag-infer index ...``; returns what it printed, on stderr where it fails."""
    done = subprocess.run(command(*words), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    if status:
        assert done.stderr.count("\n") == 1, "an error is one line"
        assert done.stdout == ""
        return done.stderr
    assert done.stderr == "", "no progress where stderr is no terminal"
    return done.stdout


def index_json(*words: object) -> dict[str, Any]:
    found = json.loads(index(*words, "--json"))
    assert isinstance(found, dict)
    return found
