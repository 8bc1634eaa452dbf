"""What the engine gives back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rag_infer.images.image import Image
from rag_infer.text import Tokenizer


class Token(NamedTuple):
    """One generated token.

    Attributes:
        text: what it adds to the answer; empty for end of text, and where a character is not yet complete.
        log_prob: log p(y_t | x, y_<t), natural logarithm, marginal over the passages.
        posterior: p(z_t | x, y_<=t), float32 ``[n_docs]``: how much each passage accounts for the token.
    """

    text: str
    log_prob: float
    posterior: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class AnswerPassage:
    """A retrieved passage and its part in the answer.

    Attributes:
        id, title, text, metadata, image: the passage.
        score: its raw retrieval score, of the mode of search.
        prior: p(z|x), from the retrieval scores (see `SearchConfig`).
        posterior: the share of the answer it accounts for, the mean over tokens of p(z_t | x, y). In RAG-Token
            each token draws its passage anew, so this is the expected share of tokens drawn from it.
    """

    id: str
    title: str
    text: str
    metadata: Mapping[str, Any]
    score: float
    prior: float
    posterior: float
    image: Image | None = None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer and where it came from.

    Attributes:
        question: the question.
        text: the answer.
        score: log p(y|x) under the strategy, natural logarithm, before any length penalty.
        passages: the retrieved passages, best score first.
        tokens: the generated tokens, the closing one included; their log-probabilities sum to ``score``.
        alternatives: further answers, where ``num_return_sequences`` asked for them.
        timings: milliseconds per stage (tokenise, encode, search, compose, prefill, decode, total), of the batch
            the question was answered in.
        revision: the knowledge base's revision that was searched.
        question_image: the question's image, or None.
    """

    question: str
    text: str
    score: float
    passages: list[AnswerPassage]
    tokens: list[Token]
    alternatives: tuple[Answer, ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)
    revision: int = 0
    question_image: Image | None = None

    def to_dict(self) -> dict[str, Any]:
        """The answer as plain lists, strings and numbers, ready for JSON; images as their paths and digests."""
        passages = [
            {**vars(p), "metadata": dict(p.metadata), "image": _image(p.image)} for p in self.passages
        ]
        tokens = [
            {"text": t.text, "log_prob": t.log_prob, "posterior": [float(v) for v in t.posterior]}
            for t in self.tokens
        ]
        return {
            "question": self.question,
            "question_image": _image(self.question_image),
            "text": self.text,
            "score": self.score,
            "passages": passages,
            "tokens": tokens,
            "alternatives": [a.to_dict() for a in self.alternatives],
            "timings": dict(self.timings),
            "revision": self.revision,
        }


def _image(image: Image | None) -> dict[str, str] | None:
    return None if image is None else {"path": image.path, "sha256": image.sha256}


def token_texts(
    tokenizer: Tokenizer, ids: Sequence[int], stop_strings: Sequence[str] = (), *, final: bool = True
) -> list[str]:
    """What each token adds to the text, which ends before the first stop string.

    A token that ends inside a character adds nothing; the token that completes it adds the character.

    Args:
        tokenizer: the generator's.
        ids: the tokens.
        stop_strings: where the text ends.
        final: whether no further token can complete the last character.
    """
    texts: list[str] = []
    done = ""
    for i in range(len(ids)):
        whole = tokenizer.decode(ids[: i + 1])
        if whole.endswith("�") and not (final and i + 1 == len(ids)):
            texts.append("")
            continue
        texts.append(whole[len(done) :])
        done = whole
    ends = [at for s in stop_strings if (at := done.find(s)) >= 0]
    return _cut_after(texts, min(ends)) if ends else texts


def settled(texts: Sequence[str], stop_strings: Sequence[str]) -> int:
    """How many tokens come before what may be the beginning of a stop string.

    >>> settled(["Pa", "ris", "#"], ["##"])
    2
    """
    whole = "".join(texts)
    begun = (n for s in stop_strings for n in range(1, len(s)) if whole.endswith(s[:n]))
    held, count = max(begun, default=0), len(texts)
    while held > 0:
        count -= 1
        held -= len(texts[count])
    return count


def _cut_after(texts: Sequence[str], length: int) -> list[str]:
    kept = []
    for text in texts:
        kept.append(text[:length])
        length -= len(kept[-1])
    return kept
