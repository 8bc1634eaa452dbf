"""What the decoding code must do, said a token at a time: slow, and short enough to be seen to be right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rag_infer import GenerationConfig

IMPOSSIBLE = -np.inf


def constrained(
    scores: Sequence[float], tokens: Sequence[int], config: GenerationConfig, *, eos: int, begun: int
) -> list[float]:
    """The scores of every next token after the constraints, in the order in which transformers applies them."""
    result = list(scores)
    for token in range(len(result)):
        if token in tokens:
            penalty = config.repetition_penalty
            result[token] = result[token] * penalty if result[token] < 0 else result[token] / penalty
        longer = [*tokens, token]
        n = config.no_repeat_ngram_size
        ngrams = [tuple(longer[i : i + n]) for i in range(len(longer) - n + 1)] if n else []
        repeats = bool(ngrams) and ngrams[-1] in ngrams[:-1]
        bad = any(longer[-len(w) :] == list(w) for w in config.bad_words_ids if tuple(w) != (eos,))
        too_short = token == eos and len(tokens) < config.min_length
        if repeats or bad or too_short:
            result[token] = IMPOSSIBLE
    bos, last = config.forced_bos_token_id, config.forced_eos_token_id
    first_chosen = begun + (1 if begun and bos is not None else 0)
    if len(tokens) == first_chosen:
        for token in config.begin_suppress_tokens:
            result[token] = IMPOSSIBLE
    if bos is not None and len(tokens) == begun:
        result = [0.0 if token == bos else IMPOSSIBLE for token in range(len(result))]
    if last is not None and len(tokens) == begun + config.max_tokens - 1:
        result = [0.0 if token == last else IMPOSSIBLE for token in range(len(result))]
    return result
