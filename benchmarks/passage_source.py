"""Passages and vectors without end, for benchmarks of large knowledge bases: any batch of them, in any process.

Vectors are of unit length and lie as an encoder's do: each is one of the demo's 10,033 MiniLM vectors moved along the
difference of two others of them, by 0.1 to 0.5 of it, so that what is added has the spread of real vectors and not
that of independent coordinates. Texts are 60 to 100 consecutive words of the demo's articles, begun in the article of
the vector, and a number. Without the demo (``make models``), or at another width, centres are random and words are
drawn by Zipf's law.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.checkpoints import demo_file
from benchmarks.report import BenchmarkError
from rag_infer import Passage
from rag_infer.knowledge.similarity import normalised

WORDS = (60, 100)
# `shard` of a passage's metadata is its number modulo this: one value is 1 %, those below half of it 50 %.
SHARDS = 100
# What is drawn at random, apart for each purpose.
PASSAGES, QUERIES, NEWCOMERS = 0, 1, 2

RANDOM_CENTRES, RANDOM_WORDS, RANDOM_VOCABULARY = 20_000, 1_000_000, 50_000


@dataclass(frozen=True)
class Source:
    """Where passages come from.

    Attributes:
        name: "demo" or "random".
        centres: float32 ``[centres, dim]``.
        titles: of the centres.
        words: all texts as one.
        starts: int64 ``[words]``: where each word begins.
        firsts: int64 ``[centres]``: the word a centre's text begins with.
        seed: of what is drawn at random.
    """

    name: str
    centres: NDArray[np.float32]
    titles: list[str]
    words: str
    starts: NDArray[np.int64]
    firsts: NDArray[np.int64]
    seed: int

    def vectors(self, stream: int, batch: int, count: int) -> NDArray[np.float32]:
        """The vectors of a batch, float32 ``[count, dim]``; always the same ones."""
        return self._vectors(*self._drawn(stream, batch, count))

    def passages(self, stream: int, batch: int, count: int) -> tuple[list[Passage], NDArray[np.float32]]:
        """(The passages of a batch, their vectors); those of different streams have different ids."""
        random, centres = self._drawn(stream, batch, count)
        vectors = self._vectors(random, centres)
        lengths = random.integers(WORDS[0], WORDS[1] + 1, count)
        begin = np.minimum(
            self.firsts[centres] + random.integers(0, WORDS[1], count), len(self.starts) - WORDS[1] - 1
        )
        spans = zip(
            self.starts[begin].tolist(), self.starts[begin + lengths].tolist(), centres.tolist(), strict=True
        )
        return [
            self._passage(stream, batch * count + i, centre, self.words[start : end - 1])
            for i, (start, end, centre) in enumerate(spans)
        ], vectors

    def questions(self, count: int) -> list[str]:
        """A few words each, of the texts."""
        begin = np.random.default_rng([self.seed, QUERIES, 1]).integers(0, len(self.starts) - 6, count)
        return [self.words[self.starts[b] : self.starts[b + 6] - 1] for b in begin]

    def _passage(self, stream: int, number: int, centre: int, text: str) -> Passage:
        id_ = f"{stream}-{number:09d}"
        return Passage(id_, f"{text} {number}", self.titles[centre], {"shard": number % SHARDS})

    def _drawn(self, stream: int, batch: int, count: int) -> tuple[np.random.Generator, NDArray[np.int64]]:
        random = np.random.default_rng([self.seed, stream, batch])
        return random, random.integers(0, len(self.centres), count)

    def _vectors(self, random: np.random.Generator, centres: NDArray[np.int64]) -> NDArray[np.float32]:
        one, other = random.integers(0, len(self.centres), (2, len(centres)))
        far = random.uniform(0.1, 0.5, (len(centres), 1)).astype(np.float32)
        return normalised(self.centres[centres] + far * (self.centres[one] - self.centres[other]))


def source(dim: int, *, seed: int, demo: bool) -> Source:
    """Where passages come from.

    Args:
        dim: width of the vectors.
        seed: of what is drawn at random.
        demo: from the demo's articles and vectors, which are of width 384.

    Raises:
        BenchmarkError: the demo was not made.
    """
    return _demo(dim, seed) if demo else _random(dim, seed)


def has_demo(dim: int) -> bool:
    """Whether the demo's vectors are there and of this width."""
    try:
        return bool(_demo_vectors().shape[1] == dim)
    except BenchmarkError:
        return False


def _demo_vectors() -> NDArray[np.float32]:
    from rag_infer import KnowledgeBase

    with KnowledgeBase.open(demo_file("kb"), verify="never") as knowledge_base:
        dim, rows = knowledge_base.settings.dim, len(knowledge_base)
        paths = sorted((knowledge_base.folder / "vectors").glob("*.f32"))
    found = np.concatenate([np.fromfile(p, dtype="<f4") for p in paths]).reshape(-1, dim)[:rows]
    return normalised(found)


def _demo(dim: int, seed: int) -> Source:
    centres = _demo_vectors()
    if centres.shape[1] != dim:
        raise BenchmarkError(f"the demo's vectors are of {centres.shape[1]}, --dim is {dim}: add --random")
    with demo_file("corpus.jsonl").open(encoding="utf-8") as lines:
        articles = [json.loads(line) for line in lines][: len(centres)]
    texts = [" ".join(a["text"].split()) for a in articles]
    counts = np.array([text.count(" ") + 1 for text in texts])
    words = " ".join(texts)
    firsts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    return Source(
        "demo", centres[: len(texts)], [a["title"] for a in articles], words, _starts(words), firsts, seed
    )


def _random(dim: int, seed: int) -> Source:
    random = np.random.default_rng(seed)
    centres = normalised(random.standard_normal((RANDOM_CENTRES, dim), dtype=np.float32))
    drawn = np.minimum(random.zipf(1.2, RANDOM_WORDS), RANDOM_VOCABULARY)
    words = " ".join(f"w{number}" for number in drawn.tolist())
    firsts = random.integers(0, RANDOM_WORDS - 2 * WORDS[1], RANDOM_CENTRES)
    titles = [f"title {i}" for i in range(RANDOM_CENTRES)]
    return Source("random", centres, titles, words, _starts(words), firsts, seed)


def _starts(words: str) -> NDArray[np.int64]:
    """Where words begin, and where the next one would after the last."""
    letters = np.frombuffer(words.encode("utf-32-le"), dtype=np.uint32)
    return np.concatenate([[0], np.flatnonzero(letters == ord(" ")) + 1, [len(words) + 1]]).astype(np.int64)
