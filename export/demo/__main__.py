"""``python -m rag_infer.export.demo``: all stages of the demonstration, then five questions."""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import rag_infer
from rag_infer.bundle import Bundle
from rag_infer.cli.defaults import cache_folder
from rag_infer.cli.show import show_answer
from rag_infer.errors import RagInferError
from rag_infer.export.demo.sources import ARTICLES, MINILM, PACKAGES, SMOLLM2, fetch, write_corpus
from rag_infer.export.demo.stage import fingerprint, run_stage, told

QUESTIONS = (
    "Who designed and built the Eiffel Tower?",
    "In what year did the Titanic sink?",
    "How high is Mount Everest?",
    "Which planet is closest to the Sun?",
    "Which language is spoken in Brazil?",
)
NEXT_QUESTION = "Which dynasty built the best-known sections of the Great Wall of China?"

STAGES = ("sources", "corpus", "bundle", "kb")
EXPORT_PACKAGES = (
    "torch",
    "transformers",
    "optimum",
    "onnx",
    "gguf",
    "tokenizers",
    "onnxruntime-gpu",
    "onnxruntime",
)


def prepare(folder: Path, *, until: str = "kb") -> None:
    """Make whatever of sources, corpus, bundle and knowledge base is missing or out of date."""
    folder.mkdir(parents=True, exist_ok=True)
    sources, corpus, bundle, kb = (folder / n for n in ("sources", "corpus.jsonl", "bundle", "kb"))
    wanted = STAGES[: STAGES.index(until) + 1]
    inputs = fingerprint(PACKAGES)
    run_stage(folder, "sources", inputs, sources, lambda: fetch(sources))
    if "corpus" in wanted:
        inputs = fingerprint(sources / ARTICLES, Path(__file__).with_name("sources.py"))
        run_stage(folder, "corpus", inputs, corpus, lambda: write_corpus(sources / ARTICLES, corpus))
    if "bundle" in wanted:
        export = Path(__file__).parent.parent
        inputs = fingerprint(
            *(PACKAGES, *sorted(export.glob("*.py")), export / "families"),
            *(Path(rag_infer.__file__).with_name(name) for name in ("bundle.py", "compose.py", "verify.py")),
            *map(_version, EXPORT_PACKAGES),
        )
        run_stage(
            folder,
            "bundle",
            inputs,
            bundle,
            lambda: _export(sources, bundle),
            stands=lambda: _is_whole(bundle),
        )
    if "kb" in wanted:
        encoder = Bundle.load(bundle, check="size")
        part = encoder.manifest.passage_encoder
        assert part is not None
        inputs = fingerprint(corpus, encoder.fingerprint(part))
        run_stage(
            *(folder, "kb", inputs, kb),
            lambda: _index(corpus, bundle, kb, inputs),
            stands=lambda: _opens(kb),
        )


def answer(folder: Path) -> None:
    """Ask the five questions."""
    started = time.perf_counter()
    engine = rag_infer.RagEngine.from_pretrained(folder / "bundle", knowledge_base=folder / "kb")
    print(f"[engine] ready in {time.perf_counter() - started:.1f} s, without PyTorch\n", flush=True)
    with engine:
        for question in QUESTIONS:
            show_answer(engine.generate(question))
            print(flush=True)


def main() -> int:
    """Run the stages, then ask; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m rag_infer.export.demo", description=__doc__)
    parser.add_argument("--until", choices=STAGES, help="stop after this stage, ask nothing")
    arguments = parser.parse_args()
    folder = cache_folder() / "demo"

    def work() -> None:
        prepare(folder, until=arguments.until or "kb")
        if arguments.until is None:
            answer(folder)
            command = Path(sys.executable).with_name("rag-infer")
            shown = command.relative_to(Path.cwd()) if command.is_relative_to(Path.cwd()) else command
            print(f"try next:\n  {shown} ask {shlex.quote(NEXT_QUESTION)} --explain")

    return told("demo", work)


def _export(sources: Path, bundle: Path) -> None:
    encoder = str(sources / MINILM)
    _rag_infer(
        *("export", str(bundle), "--force", "--question-encoder", encoder, "--passage-encoder", encoder),
        *("--generator", str(sources / SMOLLM2)),
    )


def _index(corpus: Path, bundle: Path, kb: Path, inputs: str) -> None:
    # An index that was begun from the same inputs is finished; any other is made anew.
    begun = kb.with_name("kb.inputs")
    if not begun.exists() or begun.read_text() != inputs:
        shutil.rmtree(kb, ignore_errors=True)
        begun.write_text(inputs)
    _rag_infer("index", "build", str(kb), str(corpus), "--bundle", str(bundle))


def _rag_infer(*words: str) -> None:
    # A process of its own: what it imports (PyTorch) and allocates is gone before questions are answered.
    done = subprocess.run([sys.executable, "-m", "rag_infer.cli.main", *words], check=False)
    if done.returncode != 0:
        raise RagInferError(f"rag-infer {words[0]} failed with status {done.returncode}")


def _is_whole(bundle: Path) -> bool:
    try:
        Bundle.load(bundle, check="size")
    except RagInferError:
        return False
    return True


def _opens(kb: Path) -> bool:
    try:
        rag_infer.KnowledgeBase.open(kb).close()
    except RagInferError:
        return False
    return True


def _version(package: str) -> str:
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return f"{package} absent"


if __name__ == "__main__":
    sys.exit(main())
