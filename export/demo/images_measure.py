"""How well the demonstration with images answers, and finds: every figure through the runtime, none through PyTorch."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rag_infer.engine import RagEngine
from rag_infer.images import read_image
from rag_infer.knowledge import KnowledgeBase, Passage, SearchConfig
from rag_infer.query import Query

# Of the test set, where each of many settings is measured.
SAMPLE = 1000
KS = (1, 5, 10)
QUESTIONS_AT_ONCE = 64


@dataclass(frozen=True)
class Asked:
    """A test question.

    Attributes:
        question, answer: texts.
        image: the file it is about.
        facts: what is known of the image, as a passage says it.
    """

    question: str
    image: Path
    answer: str
    facts: str


def read_asked(path: Path) -> list[Asked]:
    """The questions of a file of JSON lines, whose images lie relative to it."""
    with path.open(encoding="utf-8") as stream:
        entries = [json.loads(line) for line in stream]
    return [Asked(e["question"], path.parent / e["image"], e["answer"], e["facts"]) for e in entries]


def sample(asked: Sequence[Asked], count: int = SAMPLE) -> list[Asked]:
    """Some of them, always the same."""
    chosen = np.random.default_rng(0).permutation(len(asked))[:count]
    return [asked[i] for i in sorted(chosen.tolist())]


def majority(asked: Sequence[Asked]) -> float:
    """The share of the most frequent answer."""
    return Counter(a.answer for a in asked).most_common(1)[0][1] / len(asked)


def accuracy(engine: RagEngine, asked: Sequence[Asked], search: SearchConfig) -> tuple[float, float]:
    """(The share of right answers, the share of questions whose first passage says what is so of their image)."""
    right = found = 0
    for batch in _batches(asked):
        queries = [Query(a.question, a.image) for a in batch]
        for one, answer in zip(batch, engine.generate(queries, search=search), strict=True):
            right += answer.text == one.answer
            found += answer.passages[0].text == one.facts
    return right / len(asked), found / len(asked)


def accuracy_alone(engine: RagEngine, asked: Sequence[Asked]) -> float:
    """The share of right answers of the same generator, given the image and the question and an empty passage."""
    generator = engine.generator
    assert generator.vision is not None
    nothing, right = np.zeros(1, dtype=np.float32), 0
    for batch in _batches(asked):
        contexts = [generator.composer.compose(a.question, [("", "")]) for a in batch]
        images = [[[read_image(a.image)]] for a in batch]
        generation = generator.begin(contexts, [nothing] * len(batch), generator.defaults, images=images)
        for one, results in zip(batch, generation.results(), strict=True):
            right += generator.tokenizer.decode(results[0].hypothesis.tokens).strip() == one.answer
    return right / len(asked)


def recall_of_texts(bundle: Path, asked: Sequence[Asked], search: SearchConfig) -> dict[int, float]:
    """Image to text: the share of images whose sentence is among the k nearest of all sentences."""
    pictures = {a.image: a.facts for a in asked}
    passages = [Passage(sentence, sentence) for sentence in sorted(set(pictures.values()))]
    found = _found(bundle, passages, [Query(image=image) for image in pictures], search)
    return _recalls(
        [[id_ == facts for id_ in ids] for ids, facts in zip(found, pictures.values(), strict=True)]
    )


def recall_of_images(bundle: Path, asked: Sequence[Asked], search: SearchConfig) -> dict[int, float]:
    """Text to image: the share of sentences for which one of the k nearest images, without captions, is as they say."""
    pictures = {a.image: a.facts for a in asked}
    sentences = sorted(set(pictures.values()))
    passages = [Passage(str(path), "", image=path) for path in pictures]
    found = _found(bundle, passages, [Query(sentence) for sentence in sentences], search)
    return _recalls(
        [[pictures[Path(id_)] == s for id_ in ids] for ids, s in zip(found, sentences, strict=True)]
    )


def _found(
    bundle: Path, passages: Sequence[Passage], queries: Sequence[Query], search: SearchConfig
) -> list[list[str]]:
    """Ids of the nearest passages of each query, in a knowledge base of these alone."""
    with (
        tempfile.TemporaryDirectory() as folder,
        KnowledgeBase.create(Path(folder) / "kb", bundle=bundle) as kb,
    ):
        kb.upsert(passages)
        return [[p.id for p in hits] for hits in kb.search(queries, k=max(KS), search=search)]


def _recalls(right: Sequence[Sequence[bool]]) -> dict[int, float]:
    return {k: sum(any(hits[:k]) for hits in right) / len(right) for k in KS}


def _batches(asked: Sequence[Asked]) -> Iterator[Sequence[Asked]]:
    for start in range(0, len(asked), QUESTIONS_AT_ONCE):
        yield asked[start : start + QUESTIONS_AT_ONCE]
