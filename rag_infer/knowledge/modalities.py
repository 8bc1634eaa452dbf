"""Searching texts and images together: each fusion as searches of the stored vectors.

A passage x is stored as one vector, [x_t ; x_v]: that of its text, then that of its image, zeros where it has none. A
question has q_t, q_v or both. But for "max" and "rrf", a fusion's score of a passage is linear in its stored vector,
with factors that depend on which of the two the passage has: each kind of passage is searched with a vector of its own,
and the kernels, graphs and bounds of the exact search serve as they are.

With m, n for text and image, and s(m, n) = q_m . x_n (where text and image share a space also for m other than n):

- "concat": [sqrt(a) q_t ; sqrt(1-a) q_v] . [sqrt(a) x_t ; sqrt(1-a) x_v] = a s(t, t) + (1-a) s(v, v). What is missing
  counts as 0; of a question that has one of both, the score is divided by that one's weight, so that it has the scale
  of a similarity. (Early fusion by concatenation: Baltrusaitis et al. 2019, section 6.)
- "weighted_average": with a_t = a, a_v = 1-a, the means of what is there: q = sum_m a_m q_m / sum_m a_m, x likewise,
  and the score q . x. For one shared space. (As UniIR's score-level fusion: Wei et al. 2023.)
- "score": the mean, weighted by a_m, of z(m, n) = (s(m, n) - q_m . mu_n) / (sigma_n |q_m|): each similarity in standard
  deviations above what the collection's vectors of that modality have on average. mu_n is their mean, sigma_n their
  spread, taken as the same in all directions (`Moments`). (Late fusion by z-scores: Jain, Nandakumar & Ross 2005.)
- "max": the larger of the text's and the image's similarity (CombMAX: Fox & Shaw 1994).
- "rrf": reciprocal ranks of both lists (Cormack et al. 2009), see `rag_infer.knowledge.fusion`.
- ``center``: with it s(m, n) = (q_m - mu_m) . (x_n - mu_n). The modality gap is the difference of the means (Liang et
  al. 2022, "Mind the gap").

Where a passage has something that the question has too, "score" compares that alone; else, in a shared space, the
question's text with the passage's image or the reverse. "max" and "rrf" compare each that a passage has with its like,
or where the question lacks that, in a shared space, with the other. "weighted_average" compares all with all. What
cannot be compared is not found.

A graph (HNSW) serves where all passages have the same of both; passages of several kinds are searched exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from rag_infer.errors import KnowledgeBaseError
from rag_infer.knowledge.fusion import Ranking, reciprocal_rank
from rag_infer.knowledge.moments import IMAGE, TEXT, Moments
from rag_infer.knowledge.query_vectors import QueryVectors
from rag_infer.knowledge.search_config import MODAL_FUSIONS, SearchConfig
from rag_infer.knowledge.vectors import best

Float = NDArray[np.float32]
Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]

# (scores, rows) of the nearest to query vectors among the rows of a mask; None for all that may be found.
Nearest = Callable[[Float, int, Mask | None], tuple[Float, Rows]]

BOTH = (TEXT, IMAGE)


@dataclass(frozen=True)
class Space:
    """What the stored vectors consist of.

    Attributes:
        text_dim, image_dim: widths.
        shared: whether texts and images may be compared.
        count: gives the moments of each modality; called once, where a fusion needs them.
    """

    text_dim: int
    image_dim: int
    shared: bool
    count: Callable[[], Mapping[str, Moments]]

    @cached_property
    def moments(self) -> Mapping[str, Moments]:
        """Of each modality."""
        return self.count()

    def slice(self, modality: str) -> slice:
        """The place of a modality in a stored vector."""
        return slice(0, self.text_dim) if modality == TEXT else slice(self.text_dim, None)


@dataclass(frozen=True)
class Term:
    """A similarity in a score: of the question's modality to the passage's, with its factor."""

    asked: str
    stored: str
    weight: float


@dataclass(frozen=True)
class Kinds:
    """The rows that may be found, by what they have; only kinds of which there are rows.

    Attributes:
        masks: bool ``[rows]`` by the modalities that its passages have.
        all: bool ``[rows]`` of all of them, or None where that is every live row.
    """

    masks: Mapping[tuple[str, ...], Mask]
    all: Mask | None


def fusion_of(config: SearchConfig, space: Space) -> str:
    """The fusion that a search asks for, or the one that suits the space.

    Raises:
        KnowledgeBaseError: it needs a shared space, and there is none.
    """
    if config.fusion not in MODAL_FUSIONS:
        return "weighted_average" if space.shared else "concat"
    if config.fusion == "weighted_average" and not space.shared:
        raise KnowledgeBaseError(
            f"weighted_average adds vectors of texts ({space.text_dim} dimensions) and of images ({space.image_dim}), "
            "which are not in one space here: use concat, score, rrf or max"
        )
    return config.fusion


def terms(fusion: str, asked: Sequence[str], stored: Sequence[str], space: Space, alpha: float) -> list[Term]:
    """What a score is the sum of, for a question and a passage that have these modalities."""
    share = {TEXT: alpha, IMAGE: 1 - alpha}
    if fusion == "concat":
        pairs, a, total = [(m, m) for m in BOTH if m in asked and m in stored], _shares(share, asked), 1.0
        weights = [a[m] for m, _ in pairs]
    elif fusion == "weighted_average":
        pairs = [(m, n) for m in asked for n in stored]
        a, b = _shares(share, asked), _shares(share, stored)
        weights, total = [a[m] * b[n] for m, n in pairs], 1.0
    else:
        pairs = [(m, m) for m in BOTH if m in asked and m in stored]
        if not pairs and space.shared:
            pairs = [(m, n) for m in asked for n in stored]
        weights = [share[n] for _, n in pairs]
        total = sum(weights)
        if pairs and not total:  # the only one there is, of weight 0
            weights, total = [1.0] * len(pairs), float(len(pairs))
    return [Term(m, n, w / total) for (m, n), w in zip(pairs, weights, strict=True)]


def _shares(share: Mapping[str, float], there: Sequence[str]) -> dict[str, float]:
    """Shares of what is there, of sum 1."""
    total = sum(share[m] for m in there)
    return {m: share[m] / total if total else 1 / len(there) for m in there}


def search_modalities(
    queries: QueryVectors, config: SearchConfig, k: int, *, space: Space, kinds: Kinds, nearest: Nearest
) -> tuple[Float, Rows]:
    """The k best rows per question, best first, ties to the lower row.

    Args:
        queries: their vectors.
        config: its ``fusion``, ``alpha``, ``center``, ``candidates`` and ``rank_constant`` count.
        k: how many.
        space: what the stored vectors consist of.
        kinds: the rows that may be found.
        nearest: searches the stored vectors.

    Returns:
        (scores float32 ``[questions, k]``, rows int64 ``[questions, k]``); missing ones are row -1.

    Raises:
        KnowledgeBaseError: a fusion that the space does not allow.
    """
    fusion = fusion_of(config, space)
    scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    rows = np.full((len(queries), k), -1, dtype=np.int64)
    for asked in ((TEXT,), (IMAGE,), BOTH):
        chosen = np.flatnonzero(
            (queries.has_text == (TEXT in asked)) & (queries.has_image == (IMAGE in asked))
        )
        if chosen.size:
            given = {TEXT: queries.text[chosen], IMAGE: queries.image[chosen]}
            search = _Search(fusion, config, space, kinds, nearest, {m: given[m] for m in asked})
            found = search.listed(k) if fusion in ("max", "rrf") else search.linear(k)
            scores[chosen, : found[0].shape[1]], rows[chosen, : found[1].shape[1]] = found
    return scores, rows


@dataclass(frozen=True)
class _Search:
    """The search for questions that have the same modalities."""

    fusion: str
    config: SearchConfig
    space: Space
    kinds: Kinds
    nearest: Nearest
    asked: Mapping[str, Float]

    def linear(self, k: int) -> tuple[Float, Rows]:
        """A fusion that is linear for each kind of passages."""
        kinds = [(stored, mask) for stored, mask in self.kinds.masks.items() if self._terms(stored)]
        if not kinds:
            return np.empty((self._count, 0), np.float32), np.empty((self._count, 0), np.int64)
        if self.fusion == "concat" and not self.config.center and len(kinds) == len(self.kinds.masks):
            return self._searched(self._terms(BOTH), self.kinds.all, k)  # what is missing is 0 by itself
        found = [self._searched(self._terms(stored), self._unless_all(mask), k) for stored, mask in kinds]
        return best(np.concatenate([s for s, _ in found], 1), np.concatenate([r for _, r in found], 1), k)

    def listed(self, k: int) -> tuple[Float, Rows]:
        """A fusion of the list by texts and the list by images."""
        lists, weights = [], []
        count = k if self.fusion == "max" else max(k, self.config.candidates)
        for stored, share in ((TEXT, self.config.alpha), (IMAGE, 1 - self.config.alpha)):
            masks = [mask for has, mask in self.kinds.masks.items() if stored in has]
            parts = self._terms((stored,))
            if masks and parts:
                there = np.logical_or.reduce(masks)
                lists.append(self._searched(parts, self._unless_all(there), min(count, int(there.sum()))))
                weights.append(share)
        scores = np.full((self._count, k), -np.inf, dtype=np.float32)
        rows = np.full((self._count, k), -1, dtype=np.int64)
        for i in range(self._count):
            rankings = [Ranking(s[i][r[i] >= 0], r[i][r[i] >= 0]) for s, r in lists]
            found = self._merged(rankings, weights)
            kept = min(k, len(found.rows))
            scores[i, :kept], rows[i, :kept] = found.scores[:kept], found.rows[:kept]
        return scores, rows

    @property
    def _count(self) -> int:
        return len(next(iter(self.asked.values())))

    def _merged(self, rankings: Sequence[Ranking], weights: Sequence[float]) -> Ranking:
        if not rankings:
            return Ranking(np.empty(0, np.float32), np.empty(0, np.int64))
        if self.fusion == "rrf":
            even = weights if len(weights) > 1 else [1.0]
            return reciprocal_rank(rankings, weights=even, constant=self.config.rank_constant)
        # A row that is among the k best by the larger similarity is among the k best of that similarity's list.
        rows, place = np.unique(np.concatenate([r.rows for r in rankings]), return_inverse=True)
        scores = np.full(len(rows), -np.inf, dtype=np.float32)
        np.maximum.at(scores, place, np.concatenate([r.scores for r in rankings]))
        order = np.lexsort((rows, -scores))
        return Ranking(scores[order], rows[order])

    def _terms(self, stored: Sequence[str]) -> list[Term]:
        return terms(self.fusion, list(self.asked), stored, self.space, self.config.alpha)

    def _unless_all(self, mask: Mask) -> Mask | None:
        """None where the mask is of every live row: a graph serves only then."""
        one_kind = len(self.kinds.masks) == 1
        return None if one_kind and self.kinds.all is None else mask

    def _searched(self, parts: Sequence[Term], mask: Mask | None, k: int) -> tuple[Float, Rows]:
        vectors = np.zeros((self._count, self.space.text_dim + self.space.image_dim), dtype=np.float64)
        constant = np.zeros(self._count)
        for part in parts:
            asked = self.asked[part.asked].astype(np.float64)
            moments = self.space.moments if self.config.center or self.fusion == "score" else {}
            if self.config.center:
                asked = asked - moments[part.asked].mean
            weight = np.full(self._count, part.weight)
            if self.fusion == "score":
                lengths = np.linalg.norm(asked, axis=1)
                weight = weight / (moments[part.stored].spread * np.where(lengths > 0, lengths, 1.0))
            vectors[:, self.space.slice(part.stored)] += weight[:, None] * asked
            if self.config.center or self.fusion == "score":
                constant -= weight * (asked @ moments[part.stored].mean)
        if mask is not None:
            k = min(k, int(np.count_nonzero(mask)))
        scores, rows = self.nearest(vectors.astype(np.float32), k, mask)
        return (scores + constant[:, None].astype(np.float32)).astype(np.float32), rows
