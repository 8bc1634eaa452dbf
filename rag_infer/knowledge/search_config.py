"""How passages are searched: by their vectors, by their words, or by both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from rag_infer.knowledge.fusion import RANK_CONSTANT

MODES = ("dense", "lexical", "hybrid")
FUSIONS = ("reciprocal_rank", "weighted")
# Of texts and images (`rag_infer.knowledge.modalities`).
MODAL_FUSIONS = ("concat", "weighted_average", "score", "rrf", "max")
# Whose scores are of a scale of their own.
OWN_SCALE = ("score", "rrf")

# Beyond it a sum of scores could leave the range of its numbers, and infinity less infinity is no score.
LARGEST = 1e9


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """Settings of one search; an unknown name or value is an error.

    What a passage's score is, and the prior p(z|x) that `rag_infer.RagEngine` makes of the scores s of the k passages
    found:

    - "dense": the similarity of the vectors; softmax(score_scale * s), with the bundle's ``score_scale``. The fusions
      "score" and "rrf" give standard deviations and logarithms of weights: softmax(s).
    - "lexical": BM25 (`rag_infer.knowledge.lexical`); softmax(lexical_scale * s). BM25 approximates, up to what is the
      same for all passages, the log-odds of relevance (Robertson & Zaragoza 2009, sections 2 and 3): with the scale 1
      passages are weighed by their odds.
    - "hybrid": the logarithm of the fused weight (`rag_infer.knowledge.fusion`); softmax(s).

    Attributes:
        mode: "dense", "lexical" or "hybrid".
        fusion: of "hybrid": "weighted" or "reciprocal_rank". Of "dense", where there are images: "concat",
            "weighted_average", "score", "rrf" or "max", see `rag_infer.knowledge.modalities`; "weighted" is there
            "weighted_average" where texts and images share a space, else "concat".
        alpha: the dense side's share in the fused weight, from 0 to 1; in a "dense" fusion of texts and images the
            texts' (in a "hybrid" search texts and images share alike).
        center: whether each modality's mean is subtracted from its vectors, which lessens the modality gap.
        candidates: passages each side gives to the fusion, at least k.
        rank_constant: of reciprocal rank fusion.
        title_weight: how many occurrences of a word in the text one in the title is worth.
        dense_scale: factor on the dense scores in "weighted"; None for the bundle's ``score_scale``, and for 1 where
            there is no bundle.
        lexical_scale: factor on BM25 in "weighted" and in the prior of "lexical".

    Raises:
        TypeError: a value of another type.
        ValueError: an unknown mode or fusion, or a number out of its range; none may be above 1e9.

    >>> SearchConfig(mode="hybrid").updated({"alpha": 0.7}).alpha
    0.7
    """

    mode: str = "dense"
    fusion: str = "weighted"
    alpha: float = 0.5
    center: bool = False
    candidates: int = 100
    rank_constant: float = RANK_CONSTANT
    title_weight: float = 1.0
    dense_scale: float | None = None
    lexical_scale: float = 1.0

    def __post_init__(self) -> None:
        """Check every value."""
        fusions = FUSIONS if self.mode == "hybrid" else (*FUSIONS, *MODAL_FUSIONS)
        for name, known in (("mode", MODES), ("fusion", fusions)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        if not isinstance(self.center, bool):
            raise TypeError(f"center must be True or False, got {self.center!r}")
        if self.center and self.mode == "lexical":
            raise ValueError("center is of vectors: a search of mode 'lexical' has none")
        if isinstance(self.candidates, bool) or not isinstance(self.candidates, int):
            raise TypeError(f"candidates must be a whole number, got {self.candidates!r}")
        if self.candidates < 1:
            raise ValueError(f"candidates must be at least 1, got {self.candidates}")
        self._check("alpha", 1)
        self._check("rank_constant")
        self._check("title_weight")
        self._check("lexical_scale")
        if self.dense_scale is not None:
            self._check("dense_scale")

    def _check(self, name: str, high: float = LARGEST) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{name} must be a number, got {value!r}")
        if not 0 <= value <= high:  # NaN is not either
            shown = "a number beyond 1e300" if abs(value) > 1e300 else value  # of any number of digits
            raise ValueError(f"{name} must be from 0 to {high:g}, got {shown}")

    def updated(self, changes: Mapping[str, Any]) -> SearchConfig:
        """A copy with some values changed.

        Raises:
            TypeError: an unknown name.
        """
        known = {f.name for f in fields(self)}
        unknown = sorted(set(changes) - known)
        if unknown:
            raise TypeError(f"unknown search setting {unknown[0]!r}: expected {', '.join(sorted(known))}")
        return replace(self, **changes)

    def check_questions(self, questions: Sequence[str], *, images: bool = False) -> None:
        """Refuse to look for the words of a question that has none, and not to look at its image.

        Args:
            questions: their texts, "" where there is none.
            images: whether any has an image that nobody else looks at.

        Raises:
            ValueError: an image alone in a search by words, or an image at all in one by words alone.
        """
        if self.mode != "dense" and not all(questions):
            raise ValueError(f"a search of mode {self.mode!r} needs words: this question is an image alone")
        if self.mode == "lexical" and images:
            raise ValueError("a search of mode 'lexical' does not look at images: use dense or hybrid")

    def prior_scale(self, score_scale: float) -> float:
        """The factor on a passage's score before the softmax that makes its prior.

        Args:
            score_scale: the bundle's, which is for dense scores.
        """
        dense = 1.0 if self.fusion in OWN_SCALE else score_scale
        return {"dense": dense, "lexical": self.lexical_scale, "hybrid": 1.0}[self.mode]


def search_config(search: SearchConfig | None) -> SearchConfig:
    """The settings given, or the default ones.

    Raises:
        TypeError: something else, such as a dict.
    """
    if search is None:
        return SearchConfig()
    if not isinstance(search, SearchConfig):
        raise TypeError(f"search must be a SearchConfig, got {type(search).__name__}: SearchConfig(mode=...)")
    return search
