"""``python -m rag_infer.export.demo.images``: train on easy-VQA, export, index, and answer its test questions."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rag_infer.bundle import Bundle
from rag_infer.cli.defaults import cache_folder
from rag_infer.engine import RagEngine
from rag_infer.errors import RagInferError
from rag_infer.export.demo import images_measure as measure
from rag_infer.export.demo.images_picture import write_picture
from rag_infer.export.demo.sources import fetch
from rag_infer.export.demo.stage import fingerprint, run_stage, told
from rag_infer.knowledge import SearchConfig

PACKAGES = Path(__file__).with_name("packages-images.txt")
DATA = "easy_vqa/data"
STAGES = ("sources", "checkpoints", "bundle", "kb")

# As the generator was trained (`rag_infer.export.training.retrieval`): the question says little of what an image shows.
SEARCH = SearchConfig(fusion="weighted_average", alpha=0.2)
OTHERS = (
    SearchConfig(fusion="concat", alpha=0.2),
    SearchConfig(fusion="weighted_average", alpha=0.2),
    SearchConfig(fusion="weighted_average", alpha=0.2, center=True),
    SearchConfig(fusion="score", alpha=0.2),
    SearchConfig(fusion="rrf", alpha=0.2),
    SearchConfig(fusion="max"),
)
CROSS_MODAL = (SearchConfig(), SearchConfig(center=True))


def prepare(folder: Path, *, until: str = "kb") -> None:
    """Make whatever of data, checkpoints, bundle and knowledge base is missing or out of date."""
    folder.mkdir(parents=True, exist_ok=True)
    sources, checkpoints, bundle, kb = (folder / name for name in STAGES)
    export = Path(__file__).parent.parent
    run_stage(folder, "sources", fingerprint(PACKAGES), sources, lambda: fetch(sources, PACKAGES))
    if until == "sources":
        return
    inputs = fingerprint(PACKAGES, export / "training", export / "vision_text.py")
    run_stage(
        *(folder, "checkpoints", inputs, checkpoints),
        lambda: _python("rag_infer.export.training.easy_vqa_demo", str(sources / DATA), str(checkpoints)),
        stands=lambda: (checkpoints / "questions.jsonl").exists(),
    )
    inputs = fingerprint(inputs, *sorted(export.glob("*.py")), export / "families")
    run_stage(folder, "bundle", inputs, bundle, lambda: _export(checkpoints, bundle))
    inputs = fingerprint(checkpoints / "corpus.jsonl", *_fingerprints(bundle))
    run_stage(folder, "kb", inputs, kb, lambda: _index(checkpoints, bundle, kb))


def report(folder: Path, *, count: int | None = None) -> dict[str, Any]:
    """Answer the test questions, and tell in tables how many right; with ``count`` only so many of them.

    Returns:
        The figures: shares of right answers, and recalls by k.
    """
    bundle, kb = folder / "bundle", folder / "kb"
    asked = measure.read_asked(folder / "checkpoints" / "questions.jsonl")
    asked = asked if count is None else measure.sample(asked, count)
    some = measure.sample(asked)
    whole = [a for a in asked if a.facts]
    started = time.perf_counter()
    with RagEngine.from_pretrained(bundle, knowledge_base=kb) as engine:
        answers = {
            "majority answer": measure.majority(asked),
            "the generator without retrieval": measure.accuracy_alone(engine, asked),
        }
        right, _ = measure.accuracy(engine, asked, SEARCH)
        answers[f"the generator with retrieval ({named(SEARCH)})"] = right
        print(f"right answers to {len(asked):,} test questions, in {time.perf_counter() - started:.0f} s")
        for name, value in answers.items():
            print(f"  {value:.4f}  {name}")
        print(f"\neach fusion, {len(some):,} of the questions\n  right   first passage right   fusion")
        fusions = {}
        for config in OTHERS:
            right, found = measure.accuracy(engine, some, config)
            print(f"  {right:.4f}  {found:.4f}                {named(config)}", flush=True)
            fusions[named(config)] = {"right": right, "first passage right": found}
        example = write_picture(engine, some, folder / "example.png", SEARCH)
    print("\ntexts and images find each other: recall@1, @5, @10")
    recalls: dict[str, dict[int, float]] = {}
    for config in CROSS_MODAL if whole else ():
        for name, measured in (
            ("image to text", measure.recall_of_texts(bundle, whole, config)),
            ("text to image", measure.recall_of_images(bundle, whole, config)),
        ):
            shown = "  ".join(f"{value:.3f}" for value in measured.values())
            print(f"  {shown}  {name}, {named(config)}")
            recalls[f"{name}, {named(config)}"] = measured
    print(f"\na question, what was retrieved, and the answer: {example}")
    return {
        "questions": len(asked),
        "answers": answers,
        "questions for fusions": len(some),
        "fusions": fusions,
        "recall": recalls,
    }


def named(config: SearchConfig) -> str:
    """The fusion in words."""
    fusion = "weighted_average" if config.fusion == "weighted" else config.fusion
    share = "" if fusion == "max" else f", alpha {config.alpha:g}"
    return f"{fusion}{share}{', center' if config.center else ''}"


def main() -> int:
    """Run the stages, then the measures; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m rag_infer.export.demo.images", description=__doc__)
    parser.add_argument("--questions", type=int, metavar="N", help="answer only so many test questions")
    parser.add_argument("--until", choices=("sources", "kb"), help="stop after this stage, answer nothing")
    arguments = parser.parse_args()
    if arguments.questions is not None and arguments.questions < 1:
        parser.error(f"--questions must be at least 1, got {arguments.questions}")
    folder = cache_folder() / "demo-images"

    def work() -> None:
        prepare(folder, until=arguments.until or "kb")
        if arguments.until is None:
            report(folder, count=arguments.questions)

    return told("demo-images", work)


def _export(checkpoints: Path, bundle: Path) -> None:
    _python(
        *("rag_infer.cli.main", "export", str(bundle), "--force", "--shared-space"),
        *("--text-encoder", str(checkpoints / "text"), "--image-encoder", str(checkpoints / "image")),
        *("--generator", str(checkpoints / "generator"), "--n-docs", "3"),  # as it was trained
    )


def _index(checkpoints: Path, bundle: Path, kb: Path) -> None:
    shutil.rmtree(kb, ignore_errors=True)
    corpus = str(checkpoints / "corpus.jsonl")
    _python("rag_infer.cli.main", "index", "build", str(kb), corpus, "--bundle", str(bundle))


def _python(module: str, *words: str) -> None:
    # A process of its own: what it imports (PyTorch) and allocates is gone before questions are answered. Threads that
    # sleep while they wait train several times faster than such that spin, where processors are shared.
    settings = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    done = subprocess.run([sys.executable, "-m", module, *words], check=False, env=settings)
    if done.returncode != 0:
        raise RagInferError(f"{module} {' '.join(words[:1])} failed with status {done.returncode}")


def _fingerprints(bundle: Path) -> list[str]:
    loaded = Bundle.load(bundle, check="size")
    parts = (loaded.manifest.passage_encoder, loaded.manifest.image_encoder)
    return [loaded.fingerprint(part) for part in parts if part is not None]


if __name__ == "__main__":
    sys.exit(main())
