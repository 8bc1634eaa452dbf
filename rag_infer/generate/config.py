"""What a caller may ask of generation, under transformers' names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

STRATEGIES = ("rag-token", "rag-sequence", "rag-sequence-fast")
# Versions of transformers whose results are given where they are wrong.
COMPATIBLE = ("transformers-4.57",)
# Logits over anything smaller would overflow float32.
SMALLEST_DIVISOR = 1e-30
# Lengths to a higher power would overflow.
LARGEST_LENGTH_PENALTY = 50.0
WHOLE_NUMBERS = (
    *("num_beams", "num_return_sequences", "max_length", "max_new_tokens", "min_length", "top_k", "seed"),
    *("no_repeat_ngram_size", "forced_bos_token_id", "forced_eos_token_id"),
)
MAY_BE_NONE = ("max_length", "max_new_tokens", "seed", "forced_bos_token_id", "forced_eos_token_id")
FLAGS = ("do_sample", "do_deduplication", "exclude_bos_score")


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """Settings of one generation. Names and meanings are transformers'; an unknown name is an error.

    Under RAG-Token constraints and penalties act after marginalising over passages, on log-probabilities, under
    RAG-Sequence per passage, as in transformers. They see an encoder-decoder's start token and the generated tokens;
    of a decoder-only generator the generated ones alone (the prompts differ from passage to passage).

    Attributes:
        strategy: "rag-token"; "rag-sequence", which scores every candidate under every passage ("thorough"); or
            "rag-sequence-fast", which takes a candidate's probability under a passage whose search did not find it
            as zero (Lewis et al. 2020, section 2.5).
        num_beams: width of the beam search; 1 is greedy.
        num_return_sequences: answers per question; with beam search at most ``num_beams``.
        max_length: longest answer in tokens, an encoder-decoder's start token included; used where
            ``max_new_tokens`` is None.
        max_new_tokens: likewise without the start token. Where both are None a decoder-only generator's answers have
            at most 32 tokens, an encoder-decoder's 19 under RAG-Token and 20 under RAG-Sequence, as in transformers.
        min_length: an answer does not end before this many tokens, counted as in ``max_length``.
        length_penalty: beam scores are divided by length ** length_penalty.
        early_stopping: of a beam search with ``num_beams`` ended answers: True stops there; False goes on while the
            best beam, divided by its present length, could still come before the worst of them; "never" while any
            length up to ``max_length`` could.
        no_repeat_ngram_size: no n-gram of this size occurs twice; 0 allows all.
        bad_words_ids: token sequences that may not occur.
        begin_suppress_tokens: tokens that may not come first.
        forced_bos_token_id, forced_eos_token_id: the first token, and the last when ``max_length`` is reached.
        repetition_penalty: above 1 makes tokens already generated less likely (Keskar et al. 2019).
        do_sample, temperature, top_k, top_p, seed: sampling; a seed makes it repeatable.
        stop_strings: generation ends once one of them occurs; the answer's text ends before it.
        do_deduplication: whether RAG-Sequence scores equal candidates once.
        exclude_bos_score: whether scores leave out a begin-of-text token that every answer begins with
            (`Generator.score`; RAG-Sequence's search does so in any case).
        compat: "transformers-4.57" for its results where they are wrong: RAG-Token ignores ``max_new_tokens``;
            RAG-Sequence's prior vanishes from answers of a single token; beam search fills with the end of text where
            the pad id is 0, and RAG-Sequence counts that; beams that constraints leave no token of their own are kept.

    Raises:
        TypeError: an unknown name, or a value of another type.
        ValueError: a value out of its range, such as num_beams below 1, temperature 0 or top_p above 1, or two that
            contradict each other; the message has both.

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
    compat: str | None = None

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
        top_k: object = self.top_k
        if top_k is None:  # how transformers says all
            object.__setattr__(self, "top_k", 0)
        self._check_types()
        self._check_choices()
        self._check_ranges()
        if self.do_sample and self.num_beams > 1:
            raise ValueError(f"do_sample=True with num_beams={self.num_beams}: sampling takes num_beams=1")
        alone = (
            self.strategy == "rag-token" and not self.do_sample
        )  # else there are more candidates than beams
        if alone and self.num_return_sequences > self.num_beams:
            raise ValueError(
                f"num_return_sequences={self.num_return_sequences} is above num_beams={self.num_beams}: "
                "without sampling each answer needs a beam"
            )
        # max_new_tokens does not count an encoder-decoder's start token, min_length does; `with_length` knows.
        start = 0 if self.max_new_tokens is None and self.max_length is not None else 1
        if self.min_length > self.max_tokens + start:
            raise ValueError(f"min_length={self.min_length} is above the maximum of {self.max_tokens} tokens")

    def _check_types(self) -> None:
        for name in WHOLE_NUMBERS:
            value = getattr(self, name)
            if value is None and name in MAY_BE_NONE:
                continue
            if isinstance(value, bool) or not isinstance(value, int | np.integer):
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
        if self.compat is not None and self.compat not in COMPATIBLE:
            raise ValueError(f"unknown compat {self.compat!r}: expected {', '.join(COMPATIBLE)} or None")
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

    def with_length(self, begun: int, max_positions: int | None) -> GenerationConfig:
        """A copy whose ``max_new_tokens`` is set, for a decoder whose answers begin with tokens that are given.

        Args:
            begun: how many are given.
            max_positions: the most tokens the decoder can have, or None.

        Raises:
            ValueError: no room for a token, or more asked for than the decoder can have.
        """
        if begun == 0:
            self._check_room(0, self.max_tokens)
            return self
        ignores = self.compat is not None and self.strategy == "rag-token"
        if self.max_new_tokens is not None and not ignores:
            new = self.max_new_tokens
        elif self.max_length is not None:
            new = self.max_length - begun
        else:
            new = 20 - begun if self.strategy == "rag-token" else 20
        if new < 1:
            raise ValueError(
                f"max_length={self.max_length} leaves no room for a token: every answer begins with {begun} given"
            )
        if max_positions is not None and new + begun > max_positions:
            raise ValueError(
                f"an answer of {new + begun} tokens is above the model's {max_positions} positions"
            )
        self._check_room(begun, new)
        return replace(self, max_new_tokens=new)

    def _check_room(self, begun: int, new: int) -> None:
        if self.min_length > begun + new:
            raise ValueError(f"min_length={self.min_length} is above the maximum of {begun + new} tokens")

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
