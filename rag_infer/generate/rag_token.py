"""RAG-Token: all questions of a batch advance together, a token a step, each under all of its passages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rag_infer.generate.beam import BeamSearch
from rag_infer.generate.candidates import NextTokens
from rag_infer.generate.config import GenerationConfig
from rag_infer.generate.constraints import Processor
from rag_infer.generate.head import Head
from rag_infer.generate.sample import IndependentSearch
from rag_infer.generate.search import Search, Stop
from rag_infer.session import Cancellation

Float = NDArray[np.float32]


class Rows(Protocol):
    """A decoder's state: rows, one per question and passage."""

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Drop all rows but these."""
        ...


class Decoder(Protocol):
    """What steps: see `rag_infer.generate.causal.CausalDecoder.step`."""

    def step(
        self,
        state: Any,
        parents: NDArray[np.int64],
        tokens: NDArray[np.int64],
        *,
        cancellation: Cancellation | None = None,
    ) -> Any:
        """Append one token to each beam of each row; the logits after it, as `Head.questions` takes them."""
        ...


@dataclass
class Request:
    """One question in the batch.

    Attributes:
        priors: float32 ``[n_docs]``, log p(z|x).
        search: its search.
    """

    priors: Float
    search: Search
    _parents: list[int] = field(default_factory=list)

    @property
    def num_docs(self) -> int:
        """Rows it has in the decoder's batch."""
        return len(self.priors)


def new_search(config: GenerationConfig, stop: Stop, *, num_eos: int) -> Search:
    """The search a config asks for. With a seed a question is answered alike alone and in any batch."""
    if config.num_beams > 1:
        return BeamSearch(config, stop, num_eos=num_eos)
    return IndependentSearch(config, stop, random=np.random.default_rng(config.seed))


def decode(
    decoder: Decoder,
    head: Head,
    state: Rows,
    logits: Any,
    requests: Sequence[Request],
    processors: Sequence[Processor],
    *,
    begun: tuple[int, ...] = (),
    per_passage: bool = False,
    cancellation: Cancellation | None = None,
) -> Iterator[None]:
    """Advance all requests until done; yields after every token, so that a stream can look at the searches.

    Args:
        decoder: runs the steps.
        head: turns their logits into distributions.
        state: after the prefill; rows are the requests' passages, in order.
        logits: ``[rows, 1, vocab]`` after the prefill.
        requests: the questions; their searches hold the results.
        processors: constraints on the marginal.
        begun: the tokens every answer begins with, which the constraints see too.
        per_passage: see `NextTokens`.
        cancellation: stops a step that runs.
    """
    active = list(requests)
    while active:
        beams = [max(1, len(r.search.running)) for r in active]
        marginals = head.questions(logits, [r.priors for r in active], beams)
        for request, distribution in zip(active, marginals, strict=True):
            sequences = [(*begun, *h.tokens) for h in request.search.running] or [begun]
            step = NextTokens(distribution, sequences, processors, per_passage=per_passage)
            request._parents = request.search.advance(step)
        yield
        active = _drop_finished(state, active)
        if active:
            parents, tokens = _next_step(active)
            logits = decoder.step(state, parents, tokens, cancellation=cancellation)


def _drop_finished(state: Rows, active: Sequence[Request]) -> list[Request]:
    """The requests that go on; the rows of the others leave the state."""
    going = [r for r in active if not r.search.done]
    if 0 < len(going) < len(active):
        alive = np.repeat([not r.search.done for r in active], [r.num_docs for r in active])
        state.keep_rows(np.flatnonzero(alive).tolist())
    return going


def _next_step(active: Sequence[Request]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(parents, tokens), int64 ``[rows, beams]``; a request with fewer beams repeats its first one."""
    beams = max(len(r.search.running) for r in active)
    parents, tokens = [], []
    for request in active:
        filler = beams - len(request.search.running)
        row_parents = request._parents + request._parents[:1] * filler
        row_tokens = [h.token for h in request.search.running]
        row_tokens += row_tokens[:1] * filler
        parents += [row_parents] * request.num_docs
        tokens += [row_tokens] * request.num_docs
    return np.array(parents, dtype=np.int64), np.array(tokens, dtype=np.int64)
