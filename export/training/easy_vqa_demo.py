"""``python -m rag_infer.export.training.easy_vqa_demo DATA OUT``: train a dual encoder and a generator on easy-VQA.

OUT gets the checkpoints ``image``, ``text`` and ``generator``, the training images as ``corpus.jsonl``, and the test
questions as ``questions.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from rag_infer.errors import RagInferError
from rag_infer.export.training.dual_encoder import ContrastiveSteps, DualEncoder
from rag_infer.export.training.easy_vqa import Split, all_facts, read_split
from rag_infer.export.training.generator import RagGenerator
from rag_infer.export.training.retrieved_batches import MarginalSteps, Retrieval, without_passages
from rag_infer.export.training.schedule import Schedule, train
from rag_infer.export.training.word_tokenizer import word_tokenizer

CORPUS, QUESTIONS, GENERATOR = "corpus.jsonl", "questions.jsonl", "generator"
DUAL_ENCODER = Schedule(steps=220, learning_rate=3e-3)
ANSWERS = Schedule(steps=700, learning_rate=1.5e-3)
IMAGES_PER_STEP = QUESTIONS_PER_STEP = 128
ANSWERED_AT_ONCE = 250


def train_dual_encoder(split: Split, schedule: Schedule = DUAL_ENCODER, *, seed: int = 0) -> DualEncoder:
    """A dual encoder of a split's images and sentences."""
    torch.manual_seed(seed)
    words = {text for q in split.questions for text in (q.text, q.answer)}
    tokenizer = word_tokenizer([*words, *(facts.sentence for facts in all_facts()), "/ //"])
    encoder = DualEncoder.new(tokenizer)
    steps = ContrastiveSteps(encoder, split, batch_size=IMAGES_PER_STEP, seed=seed)
    train(encoder.models, steps, schedule, name="dual encoder", tell=_tell)
    return encoder


def train_generator(
    encoder: DualEncoder, split: Split, schedule: Schedule = ANSWERS, *, seed: int = 0
) -> RagGenerator:
    """A generator that answers a split's questions from its other images."""
    torch.manual_seed(seed)
    generator = RagGenerator.new(encoder.tokenizer)
    steps = MarginalSteps(
        generator,
        Retrieval(encoder, split, split),
        split.questions,
        batch_size=QUESTIONS_PER_STEP,
        seed=seed,
    )
    train([generator.model], steps, schedule, name="generator", tell=_tell)
    return generator


def write_corpus(split: Split, path: Path) -> None:
    """The images with what is known of them, as ``rag-infer index build`` reads it."""
    lines = [
        {"_id": image.stem, "text": facts.sentence, "image": str(image.absolute())}
        for image, facts in zip(split.images, split.facts, strict=True)
    ]
    _write_lines(path, lines)


def write_questions(split: Split, path: Path) -> None:
    """The questions with image, answer, and what is known of the image ("" where that is not all)."""
    lines = [
        {
            "question": q.text,
            "image": str(split.images[q.image].absolute()),
            "answer": q.answer,
            "facts": split.facts[q.image].sentence if split.facts[q.image].whole else "",
        }
        for q in split.questions
    ]
    _write_lines(path, lines)


def accuracies(
    encoder: DualEncoder, generator: RagGenerator, memory: Split, asked: Split
) -> tuple[float, float]:
    """Shares of right answers in PyTorch: (with retrieval, with empty passages)."""
    retrieval = Retrieval(encoder, memory, asked)
    right = [0, 0]
    for start in range(0, len(asked.questions), ANSWERED_AT_ONCE):
        questions = asked.questions[start : start + ANSWERED_AT_ONCE]
        batch = retrieval.batch(questions)
        for i, given in enumerate((batch, without_passages(batch))):
            words = generator.first_words(given)
            right[i] += sum(word == q.answer for word, q in zip(words, questions, strict=True))
    return right[0] / len(asked.questions), right[1] / len(asked.questions)


def main() -> int:
    """Train, write, and say what PyTorch makes of the test questions; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m rag_infer.export.training.easy_vqa_demo")
    parser.add_argument("data", type=Path, metavar="DATA", help="the folder easy_vqa/data of the package")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for checkpoints and corpus")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (default: 0)")
    parser.add_argument("--threads", type=int, help="of PyTorch (default: its own choice)")
    arguments = parser.parse_args()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    try:
        memory, asked = (read_split(arguments.data, name) for name in ("train", "test"))
        encoder = train_dual_encoder(memory, seed=arguments.seed)
        encoder.save(arguments.out)
        generator = train_generator(encoder, memory, seed=arguments.seed)
        generator.save(arguments.out / GENERATOR)
        write_corpus(memory, arguments.out / CORPUS)
        write_questions(asked, arguments.out / QUESTIONS)
        with_passages, without = accuracies(encoder, generator, memory, asked)
        _tell(
            f"PyTorch answers {with_passages:.4f} of the test questions right, {without:.4f} without retrieval"
        )
    except (RagInferError, OSError) as error:
        print(f"easy_vqa_demo: error: {error}", file=sys.stderr)
        return 1
    return 0


def _tell(line: str) -> None:
    print(line, flush=True)


def _write_lines(path: Path, lines: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
