"""What may not, or must, come next: processors of marginal log-probabilities, in transformers' order."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rag_infer.generate.config import GenerationConfig


@dataclass(frozen=True)
class Processor:
    """A constraint.

    Attributes:
        apply: changes the scores, float32 ``[vocab]``, in place, given the tokens so far.
        touched: the tokens whose scores that may change, given the tokens so far; None for all.
    """

    apply: Callable[[NDArray[np.float32], Sequence[int]], None]
    touched: Callable[[Sequence[int]], Collection[int] | None]


def touched_tokens(processors: Sequence[Processor], tokens: Sequence[int]) -> set[int] | None:
    """The tokens whose scores any of the constraints may change after ``tokens``; None for all."""
    touched: set[int] = set()
    for processor in processors:
        changed = processor.touched(tokens)
        if changed is None:
            return None
        touched |= set(changed)
    return touched


def processors(
    config: GenerationConfig, *, eos_token_ids: Sequence[int], vocab_size: int, begun: int = 0
) -> list[Processor]:
    """The processors a config asks for; an empty list where it asks for none.

    Args:
        config: the settings.
        eos_token_ids: tokens that end an answer.
        vocab_size: number of tokens.
        begun: how many tokens are given before the first generated one; the processors see them too.

    Raises:
        ValueError: a token id outside the vocabulary, or every token banned.
    """
    _check_tokens(config, vocab_size)
    chosen: list[Processor] = []
    if config.repetition_penalty != 1.0:
        chosen.append(_repetition(config.repetition_penalty))
    if config.no_repeat_ngram_size > 0:
        chosen.append(_no_repeat_ngram(config.no_repeat_ngram_size))
    if config.bad_words_ids:
        # An end-of-text token alone is not banned by a bad word (as in transformers).
        words = [w for w in config.bad_words_ids if w not in {(e,) for e in eos_token_ids}]
        chosen.append(_bad_words(words))
    if config.min_length > 0 and eos_token_ids:
        chosen.append(_min_length(config.min_length, list(eos_token_ids)))
    if config.begin_suppress_tokens:
        # A forced first token comes before the first that is chosen.
        chosen_first = begun + (1 if begun and config.forced_bos_token_id is not None else 0)
        chosen.append(_suppress_at(chosen_first, list(config.begin_suppress_tokens)))
    if config.forced_bos_token_id is not None:
        chosen.append(_force_at(begun, config.forced_bos_token_id))
    if config.forced_eos_token_id is not None:
        chosen.append(_force_at(begun + config.max_tokens - 1, config.forced_eos_token_id))
    return chosen


def _check_tokens(config: GenerationConfig, vocab_size: int) -> None:
    named = [(t, "bad_words_ids") for w in config.bad_words_ids for t in w]
    named += [(t, "begin_suppress_tokens") for t in config.begin_suppress_tokens]
    named += [
        (t, n)
        for n in ("forced_bos_token_id", "forced_eos_token_id")
        if (t := getattr(config, n)) is not None
    ]
    for token, name in named:
        if not 0 <= token < vocab_size:
            raise ValueError(f"{name} holds token {token}, the vocabulary has {vocab_size}")
    banned = {w[0] for w in config.bad_words_ids if len(w) == 1}
    if len(banned) >= vocab_size:
        raise ValueError(f"bad_words_ids bans all {vocab_size} tokens")


def _repetition(penalty: float) -> Processor:
    def apply(scores: NDArray[np.float32], tokens: Sequence[int]) -> None:
        seen = np.unique(np.asarray(tokens, dtype=np.int64))
        scores[seen] = np.where(scores[seen] < 0, scores[seen] * penalty, scores[seen] / penalty)

    return Processor(apply, touched=set)


def _banning(banned: Callable[[Sequence[int]], Collection[int]]) -> Processor:
    """Makes the tokens that ``banned`` gives impossible."""

    def apply(scores: NDArray[np.float32], tokens: Sequence[int]) -> None:
        scores[list(banned(tokens))] = -np.inf

    return Processor(apply, touched=banned)


def _no_repeat_ngram(size: int) -> Processor:
    def banned(tokens: Sequence[int]) -> list[int]:
        tokens = tuple(tokens)
        if len(tokens) + 1 < size:
            return []
        last = tokens[len(tokens) - size + 1 :]
        starts = range(len(tokens) - size + 1)
        return [tokens[start + size - 1] for start in starts if tokens[start : start + size - 1] == last]

    return _banning(banned)


def _bad_words(words: Sequence[tuple[int, ...]]) -> Processor:
    def banned(tokens: Sequence[int]) -> list[int]:
        tokens = tuple(tokens)
        begun = [w for w in words if len(w) <= len(tokens) + 1]
        return [word[-1] for word in begun if tokens[len(tokens) - len(word) + 1 :] == word[:-1]]

    return _banning(banned)


def _min_length(length: int, eos_token_ids: list[int]) -> Processor:
    return _banning(lambda tokens: eos_token_ids if len(tokens) < length else [])


def _suppress_at(position: int, suppressed: list[int]) -> Processor:
    return _banning(lambda tokens: suppressed if len(tokens) == position else [])


def _force_at(position: int, token: int) -> Processor:
    def apply(scores: NDArray[np.float32], tokens: Sequence[int]) -> None:
        if len(tokens) == position:
            scores[:] = -np.inf
            scores[token] = 0.0

    return Processor(apply, touched=lambda tokens: None if len(tokens) == position else ())
