"""Negative log-likelihood of given answers, as transformers' `get_nll` takes labels and smooths."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rag_infer.generate.model import Scorer
from rag_infer.generate.rag_sequence import counted_tokens, prior_counts
from rag_infer.generate.score import Answers, log_sum, rag_sequence_joint, rag_token_log_probs
from rag_infer.parts import GeneratorPart

Float = NDArray[np.float32]


def loss(
    scorer: Scorer, priors: Float, answer: Answers, strategy: str, *, epsilon: float, vocab_size: int
) -> float:
    """-log p(y|x) of one question's answer, with a share ``epsilon`` on all tokens alike.

    Args:
        scorer: of the question's rows.
        priors: log p(z|x), float32 ``[n_docs]``.
        answer: one answer.
        strategy: "rag-token" or "rag-sequence".
        epsilon: label smoothing, 0 to 1.
        vocab_size: width of the logits.
    """
    every, smooth = slice(None), epsilon > 0
    if strategy == "rag-token":
        likelihood, smoothed = rag_token_log_probs(scorer, every, priors, answer, smooth=smooth)
    else:
        joint, sums = rag_sequence_joint(scorer, every, priors, answer, smooth=smooth)
        likelihood, smoothed = log_sum(joint[:, -1]), log_sum(sums)
    return float(-(1 - epsilon) * likelihood[0] - epsilon / vocab_size * smoothed[0])


def scored_answers(
    labels: Sequence[tuple[int, ...]],
    begun: tuple[int, ...],
    part: GeneratorPart,
    *,
    exclude_bos: bool,
    compat: str | None,
) -> list[tuple[tuple[int, ...], Answers]]:
    """Per question what its answer begins with, and what is scored of it.

    Args:
        labels: per question the answer's tokens.
        begun: the tokens every answer of this generator begins with; where there are any, the first of each label
            stands for them.
        part: the generator's entry in the manifest.
        exclude_bos: whether a begin-of-text token that every answer begins with is left out.
        compat: as in `rag_infer.GenerationConfig`.

    Raises:
        ValueError: a label holds nothing to score.
    """
    if not begun:
        return [((), _whole(label)) for label in labels]
    short = [i for i, label in enumerate(labels) if len(label) < 2]
    if short:
        raise ValueError(
            f"labels of question {short[0]} hold no token to score: the first stands for the start token"
        )
    pad = part.pad_token_id
    tokens = np.full((len(labels), max(map(len, labels))), pad, dtype=np.int64)
    for row, label in zip(tokens, labels, strict=True):
        row[: len(label)] = label
    targets = tokens[:, 1:]
    counted = counted_tokens(
        targets, pad_token_id=pad, bos_token_id=part.bos_token_id, exclude_bos=exclude_bos
    )
    has_prior = prior_counts(targets, pad, compat)
    return [
        ((label[0],), Answers(targets[i : i + 1], counted[i : i + 1], has_prior[i : i + 1]))
        for i, label in enumerate(labels)
    ]


def _whole(label: tuple[int, ...]) -> Answers:
    """A decoder-only generator's answer: every token counts."""
    tokens = np.array([label], dtype=np.int64)
    return Answers(tokens, np.ones(tokens.shape, dtype=bool), np.ones(1, dtype=bool))
