"""RAG-Sequence: every passage has a search of its own; the answers they find are then weighed together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rag_infer.generate.config import GenerationConfig
from rag_infer.generate.hypothesis import Hypothesis
from rag_infer.generate.model import Scorer
from rag_infer.generate.score import Answers, log_sum, posterior, rag_sequence_joint
from rag_infer.generate.search import Finished

Float = NDArray[np.float32]


@dataclass(frozen=True)
class Weighing:
    """What is needed to weigh a question's candidates.

    Attributes:
        scorer: gives logits of answers.
        rows: the question's rows.
        priors: log p(z|x), float32 ``[n_docs]``.
        pad_token_id: tokens equal to it have no part in a score, as in transformers; but for an end of text, where
            that has the same id.
        eos_token_ids: ends of text.
        fill_token_id: what stands behind shorter candidates.
        bos_token_id: left out of the score where every candidate begins with it; or None.
        config: settings.
    """

    scorer: Scorer
    rows: slice
    priors: Float
    pad_token_id: int
    eos_token_ids: tuple[int, ...]
    fill_token_id: int
    bos_token_id: int | None
    config: GenerationConfig


def thorough(found: Sequence[Sequence[Finished]], weighing: Weighing) -> list[Finished]:
    """Score every candidate under every passage: log p(y|x) = log sum_z p(z|x) p(y|x,z); best first.

    Args:
        found: per passage what its search found.
        weighing: see there.
    """
    # What only a passage of weight zero suggests is no candidate; in transformers it is one.
    heard = [weighing.config.compat is not None or np.isfinite(prior) for prior in weighing.priors]
    candidates = [
        f.hypothesis.tokens for results, hears in zip(found, heard, strict=True) if hears for f in results
    ]
    if weighing.config.do_deduplication:
        candidates = list(dict.fromkeys(candidates))
    if not candidates:
        return []
    answers = padded(candidates, weighing)
    joint, _ = rag_sequence_joint(weighing.scorer, weighing.rows, weighing.priors, answers)
    scored = [
        Finished(_chain(tokens, after[: len(tokens)], weighing.priors), float(log_sum(after[-1])))
        for tokens, after in zip(candidates, joint, strict=True)
    ]
    return _best(scored, weighing.config)


def fast(found: Sequence[Sequence[Finished]], weighing: Weighing) -> list[Finished]:
    """Take a candidate's probability as zero under passages whose search did not find it (section 2.5)."""
    joints: dict[tuple[int, ...], NDArray[np.float64]] = {}
    for z, results in enumerate(found):
        if np.isneginf(weighing.priors[z]):
            continue
        for finished in results:
            chain = finished.hypothesis.chain()
            joint = joints.setdefault(finished.hypothesis.tokens, np.full((len(chain), len(found)), -np.inf))
            joint[:, z] = float(weighing.priors[z]) + np.cumsum([h.log_prob for h in chain])
    scored = [
        Finished(_chain(tokens, joint, weighing.priors), float(log_sum(joint[-1])))
        for tokens, joint in joints.items()
    ]
    return _best(scored, weighing.config)


def padded(candidates: Sequence[tuple[int, ...]], weighing: Weighing) -> Answers:
    """The candidates as an array, and which of their tokens count."""
    width = max(map(len, candidates))
    tokens = np.full((len(candidates), width), weighing.fill_token_id, dtype=np.int64)
    for row, candidate in zip(tokens, candidates, strict=True):
        row[: len(candidate)] = candidate
    counted = counted_tokens(
        tokens, pad_token_id=weighing.pad_token_id, bos_token_id=weighing.bos_token_id, exclude_bos=True
    )
    if weighing.config.compat is None:
        lengths = np.array([len(candidate) for candidate in candidates])
        counted |= (np.arange(width) < lengths[:, None]) & np.isin(tokens, weighing.eos_token_ids)
    return Answers(tokens, counted, prior_counts(tokens, weighing.pad_token_id, weighing.config.compat))


def counted_tokens(
    tokens: NDArray[np.int64], *, pad_token_id: int, bos_token_id: int | None, exclude_bos: bool
) -> NDArray[np.bool_]:
    """The tokens that have a part in a score: no padding, and no begin of text that all answers share."""
    counted: NDArray[np.bool_] = tokens != pad_token_id
    if exclude_bos and bos_token_id is not None and (tokens[:, 0] == bos_token_id).all():
        counted[:, 0] = False
    return counted


def prior_counts(tokens: NDArray[np.int64], pad_token_id: int, compat: str | None) -> NDArray[np.bool_]:
    """Whether an answer's score holds the prior: always, but for compatibility.

    transformers adds the prior to the second token's log-probability and sets padding to zero afterwards.
    """
    if compat is None:
        return np.ones(len(tokens), dtype=bool)
    second = tokens[:, 1] if tokens.shape[1] > 1 else np.full(len(tokens), pad_token_id)
    result: NDArray[np.bool_] = second != pad_token_id
    return result


def _best(scored: Sequence[Finished], config: GenerationConfig) -> list[Finished]:
    return sorted(scored, key=lambda f: -f.ranked_score)[: config.num_return_sequences]


def _chain(tokens: Sequence[int], joint: NDArray[np.float64], priors: Float) -> Hypothesis:
    """The answer as a chain: each token with log p(y_t | x, y_<t) and p(z | x, y_<=t) under RAG-Sequence."""
    totals = log_sum(np.concatenate([priors[None].astype(np.float64), joint]))
    shares = posterior(joint)
    chain: Hypothesis | None = None
    for i, token in enumerate(tokens):
        log_prob = float(totals[i + 1] - totals[i])
        chain = Hypothesis(
            parent=chain, token=token, log_prob=log_prob, posterior=shares[i], score=float(totals[i + 1])
        )
    assert chain is not None
    return chain
