"""What a caller may ask of generation, under transformers' names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

STRATEGIES = ("rag-token",)
# Logits over anything smaller would overflow float32.
SMALLEST_DIVISOR = 1e-30
# Lengths to a higher power would overflow.
LARGEST_LENGTH_PENALTY = 50.0
WHOLE_NUMBERS = (
    *("num_beams", "num_return_sequences", "max_length", "max_new_tokens", "min_length", "top_k", "seed"),
    *("no_repeat_ngram_size", "forced_bos_token_id", "forced_eos_token_id"),
)
FLAGS = ("do_sample", "do_deduplication", "exclude_bos_score")


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """Settings of one generation. Names and meanings are transformers'; an unknown name is an error.

    Constraints and penalties act after marginalising over passages, on log-probabilities, as in
    transformers' RAG-Token, and see the generated tokens only (the prompts differ from passage to passage).

    Attributes:
        strategy: "rag-token".
        num_beams: width of the beam search; 1 is greedy.
        num_return_sequences: answers per question; with beam search at most ``num_beams``.
        max_length: as ``max_new_tokens`` for a decoder-only generator, whose prompt is not counted;
            used where ``max_new_tokens`` is None.
        max_new_tokens: longest answer in tokens; None means 32 where ``max_length`` is None too.
        min_length: an answer does not end before this many tokens.
        length_penalty: beam scores are divided by length ** length_penalty.
        early_stopping: True, False or "never".
        no_repeat_ngram_size: no n-gram of this size occurs twice; 0 allows all.
        bad_words_ids: token sequences that may not occur.
        begin_suppress_tokens: tokens that may not come first.
        forced_bos_token_id, forced_eos_token_id: the first token, and the last when ``max_length`` is reached.
        repetition_penalty: above 1 makes tokens already generated less likely (Keskar et al. 2019).
        do_sample, temperature, top_k, top_p, seed: sampling; a seed makes it repeatable.
        stop_strings: generation ends once one of them occurs; the answer's text ends before it.
        do_deduplication, exclude_bos_score: belong to RAG-Sequence.

    >>> GenerationConfig(num_beams=4).num_beams
    4
    """

    strategy: str = "rag-token"
    num_beams: int = 1
    num_return_sequences: int = 1
    max_length: int | None = None
    max_new_tokens: int | None = None
    min_length: int = 0
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    no_repeat_ngram_size: int = 0
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | None = None
    repetition_penalty: float = 1.0
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    seed: int | None = None
    stop_strings: tuple[str, ...] = ()
    do_deduplication: bool = True
    exclude_bos_score: bool = False

    def __post_init__(self) -> None:
        """Bring lists to tuples and check every value.

        Raises:
            ValueError: a value out of its range, or two that contradict each other.
        """
        object.__setattr__(self, "bad_words_ids", tuple(tuple(int(t) for t in w) for w in self.bad_words_ids))
        object.__setattr__(self, "begin_suppress_tokens", tuple(int(t) for t in self.begin_suppress_tokens))
        stop_strings: object = self.stop_strings
        if isinstance(stop_strings, str):
            raise TypeError(f"stop_strings must be a sequence of strings, not the string {stop_strings!r}")
        object.__setattr__(self, "stop_strings", tuple(self.stop_strings))
        self._check_types()
        self._check_choices()
        self._check_ranges()
        if self.do_sample and self.num_beams > 1:
            raise ValueError(f"do_sample=True with num_beams={self.num_beams}: sampling takes num_beams=1")
        if not self.do_sample and self.num_return_sequences > self.num_beams:
            raise ValueError(
                f"num_return_sequences={self.num_return_sequences} is above num_beams={self.num_beams}: "
                "without sampling each answer needs a beam"
            )
        if self.min_length > self.max_tokens:
            raise ValueError(f"min_length={self.min_length} is above the maximum of {self.max_tokens} tokens")

    def _check_types(self) -> None:
        for name in WHOLE_NUMBERS:
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | np.integer)):
                raise TypeError(f"{name} must be a whole number, got {value!r}")
        for name in FLAGS:
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, got {getattr(self, name)!r}")
        for text in self.stop_strings:
            if not isinstance(text, str):
                raise TypeError(f"stop_strings must hold strings, got {text!r}")

    def _check_choices(self) -> None:
        if self.strategy not in STRATEGIES:
            raise ValueError(f"unknown strategy {self.strategy!r}: expected one of {', '.join(STRATEGIES)}")
        if not any(self.early_stopping is v for v in (True, False)) and self.early_stopping != "never":
            raise ValueError(f"early_stopping must be True, False or 'never', got {self.early_stopping!r}")
        if any(not w for w in self.bad_words_ids):
            raise ValueError("bad_words_ids holds an empty sequence")
        if any(not s for s in self.stop_strings):
            raise ValueError("stop_strings holds an empty string")

    def _check_ranges(self) -> None:
        at_least_one = ("num_beams", "num_return_sequences", "max_length", "max_new_tokens")
        lowest: dict[str, float] = dict.fromkeys(at_least_one, 1)
        lowest |= {"min_length": 0, "no_repeat_ngram_size": 0, "top_k": 0, "seed": 0}
        for name, low in lowest.items():
            value = getattr(self, name)
            if value is not None and not value >= low:
                raise ValueError(f"{name} must be at least {low}, got {value}")
        for name in ("temperature", "repetition_penalty"):
            if not SMALLEST_DIVISOR <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be above 0 and finite, got {getattr(self, name)}")
        if not abs(self.length_penalty) <= LARGEST_LENGTH_PENALTY:
            raise ValueError(
                f"length_penalty must be at most {LARGEST_LENGTH_PENALTY}, got {self.length_penalty}"
            )
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {self.top_p}")

    @property
    def max_tokens(self) -> int:
        """Longest answer in tokens."""
        if self.max_new_tokens is not None:
            return self.max_new_tokens
        return self.max_length if self.max_length is not None else 32

    def updated(self, changes: Mapping[str, Any]) -> GenerationConfig:
        """A copy with some values changed.

        Raises:
            TypeError: an unknown name.
        """
        known = {f.name for f in fields(self)}
        unknown = sorted(set(changes) - known)
        if unknown:
            raise TypeError(f"unknown generation setting {unknown[0]!r}: expected {', '.join(sorted(known))}")
        if "max_length" in changes and "max_new_tokens" not in changes:
            changes = {**changes, "max_new_tokens": None}  # else a default of the other would win
        return replace(self, **changes)
