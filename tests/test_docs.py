"""Every block of the README runs, and what it shows is what comes out.

``python`` blocks run in order in one namespace. ``console`` blocks hold commands after ``$`` and their
output; numbers and paths may differ from machine to machine, words may not.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rag_infer.cli.main import VERBS, build_parser
from tests.knowledge.seeing import COLOURS, picture
from tests.seeing_bundles import write_dual_encoder
from tests.seeing_checkpoints import write_vision_text
from tests.seq2seq_checkpoints import write_passage_encoder, write_rag

INDEX_VERBS = [
    *("index build", "index add", "index delete", "index info", "index check", "index compact"),
    *("index backup", "index export", "index import-vectors"),
]
ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
PYTHON = [text for kind, text in BLOCKS if kind == "python"]
# Making the environment and the demo is what `make` did before this test could run.
MADE = ("make ", "git clone", "cd ", "pip install")


def console_commands() -> list[tuple[str, str]]:
    """(command, output shown) of all console blocks."""
    found = []
    for kind, text in BLOCKS:
        if kind == "console":
            parts = re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]
            found += [(command, shown) for command, _, shown in (part.partition("\n") for part in parts)]
    return [(command, shown) for command, shown in found if not command.startswith(MADE)]


def words(text: str) -> list[str]:
    """Text without its numbers, its sums and its spacing."""
    text = re.sub(r"\b[0-9a-f]{32,}\b", "#", text)
    return re.sub(r"-?\d[\d,]*(\.\d+)?(e-?\d+)?", "#", text).split()


def excerpt(corpus: Path, lines: int = 60) -> str:
    """Some articles, the Eiffel Tower among them: indexing all of them takes minutes."""
    with corpus.open(encoding="utf-8") as stream:
        chosen = [
            line for number, line in enumerate(stream) if number < lines or '"_id": "Eiffel Tower"' in line
        ]
    return "".join(dict.fromkeys(chosen))


@pytest.fixture(scope="module")
def folder(demo_bundle: Path, demo_knowledge_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the README's reader is: what an earlier block made is there for the later ones."""
    path = tmp_path_factory.mktemp("readme")
    (path / "bundle").symlink_to(demo_bundle)
    (path / "demo-kb").symlink_to(demo_knowledge_base)
    settings: dict[str, Any] = {"max_combined_length": 48, "generation": {"max_length": 9}}
    write_rag(path / "my-rag", "RagTokenForGeneration", "bart", **settings)
    write_passage_encoder(path / "my-passage-encoder")
    write_dual_encoder(path / "my-clip")
    write_vision_text(path / "my-vision-bart")
    for place, colours in (("photos", COLOURS), ("new", ["blue"])):
        (path / place).mkdir()
        for number, colour in enumerate(colours):
            (path / place / f"{colour}.png").write_bytes(picture(colour, number + 9 * (place == "new")))
    shown = dict(console_commands())["cat questions.jsonl"]
    (path / "questions.jsonl").write_text(shown, encoding="utf-8")
    (path / "articles.jsonl").write_text(excerpt(demo_bundle.with_name("corpus.jsonl")), encoding="utf-8")
    return path


@pytest.mark.real_model
@pytest.mark.parametrize(("command", "shown"), console_commands(), ids=lambda v: v[:60])
def test_console_blocks(command: str, shown: str, folder: Path) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    expected = words(shown)
    got = words(done.stdout)
    if "..." in expected:
        assert got[: expected.index("...")] == expected[: expected.index("...")]
    else:
        assert got == expected


@pytest.mark.real_model
def test_python_blocks(folder: Path) -> None:
    """After the console's, which make what some of them open."""
    assert PYTHON
    script = folder / "readme.py"
    script.write_text("\n".join(PYTHON), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_verb_is_in_the_readme() -> None:
    for verb in (*VERBS, *INDEX_VERBS):
        assert f"rag-infer {verb}" in README


@pytest.mark.parametrize("verb", [*VERBS, *INDEX_VERBS])
def test_every_verb_has_help_and_examples_that_can_be_read(verb: str) -> None:
    command = [sys.executable, "-m", "rag_infer.cli.main", *verb.split(), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    _, _, examples = done.stdout.partition("\nexample:\n")
    assert examples.startswith(f"  rag-infer {verb}"), done.stdout
    assert "--json" in done.stdout
    for example in examples.strip().splitlines():
        _, *words_of_it = shlex.split(example)
        build_parser().parse_args(words_of_it)
