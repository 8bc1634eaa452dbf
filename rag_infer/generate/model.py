"""The two kinds of generator behind one interface: contexts in, a state and its first logits out, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rag_infer.bundle import Bundle
from rag_infer.generate.causal import CausalDecoder
from rag_infer.generate.causal_state import CausalState
from rag_infer.generate.device_cache import DeviceGraphs
from rag_infer.generate.device_head import GraphHead
from rag_infer.generate.head import Head, KernelHead
from rag_infer.generate.rag_token import Decoder
from rag_infer.generate.seq2seq import Seq2SeqDecoder, Seq2SeqState
from rag_infer.generate.vision import Seen, Vision
from rag_infer.parts import CausalGeneratorPart, Seq2SeqGeneratorPart
from rag_infer.session import Cancellation, Session

Float = NDArray[np.float32]
# Prompts or contexts in pieces: per piece the tokens of each row.
Pieces = Sequence[Sequence[Sequence[int]]]


class Scorer(Protocol):
    """What scores given answers under contexts that were read."""

    def logits(self, rows: slice, answers: NDArray[np.int64]) -> Float:
        """Logits that predict each token of some answers of one question.

        Args:
            rows: the question's rows.
            answers: int64 ``[answers, tokens]``, right-padded, without the tokens every answer begins with.

        Returns:
            float32 ``[rows, answers, tokens, vocab]``.
        """
        ...


class Model(Protocol):
    """A generator's graphs."""

    @property
    def begun(self) -> tuple[int, ...]:
        """The tokens every answer begins with."""
        ...

    @property
    def max_positions(self) -> int | None:
        """Longest answer, those included, or None."""
        ...

    @property
    def decoder(self) -> Decoder:
        """What steps."""
        ...

    @property
    def head(self) -> Head:
        """What turns the decoder's logits into distributions."""
        ...

    @property
    def vision(self) -> Vision | None:
        """What sees, or None for a generator of text alone."""
        ...

    def start(
        self,
        preamble: Sequence[int],
        pieces: Pieces,
        counts: Sequence[int],
        *,
        seen: Seen | None = None,
        reserve: int,
        cancellation: Cancellation | None,
    ) -> tuple[Any, Any, Scorer]:
        """Read contexts.

        Args:
            preamble: tokens before every row.
            pieces: the rows' tokens after it.
            counts: how many rows each question has.
            seen: what the rows see, where the generator sees.
            reserve: tokens that are likely to be generated for a row, over all its beams.
            cancellation: stops the run.

        Returns:
            The state, the logits of the first token ``[rows, 1, vocab]`` as ``head`` takes them, and what scores
            answers.
        """
        ...

    def scorer(
        self, rows: Sequence[Sequence[int]], begun: tuple[int, ...], *, seen: Seen | None = None
    ) -> Scorer:
        """What scores answers of one question under contexts that are given whole.

        Args:
            rows: tokens of each context.
            begun: tokens before an answer.
            seen: what the contexts see, where the generator sees.
        """
        ...


def load_model(bundle: Bundle, *, device: str, threads: int, passage_cache_mb: int) -> Model:
    """The model of a bundle that has a generator; a decoder-only one keeps what it read of passages."""
    part = bundle.manifest.generator
    assert part is not None
    bundle.check_device(device)

    def session(name: str) -> Session:
        return Session(bundle.file(part, name), device=device, threads=threads)

    # The kernels share the processors with ONNX Runtime's pool, and are done before threads pay.
    head: Head = KernelHead(threads=1)
    graphs = None
    if keeps_on_device(device) and part.append_graph and part.keep_graph and part.head_graph:
        small = [
            Session(bundle.file(part, name), device=device, threads=1)
            for name in (part.append_graph, part.keep_graph, part.head_graph)
        ]
        graphs = DeviceGraphs(append=small[0], keep=small[1])
        head = GraphHead(small[2], part.vocab_size)
    if isinstance(part, Seq2SeqGeneratorPart):
        steps = Seq2SeqDecoder(session(part.encoder_graph), session(part.step_graph), part, device=graphs)
        sees = part.vision
        vision = None if sees is None else Vision(session(sees.graph), sees)
        return Seq2SeqModel(steps, head, part, vision)
    decoder = CausalDecoder(session(part.graph), part, cache_bytes=passage_cache_mb << 20, device=graphs)
    return CausalModel(decoder, head, part)


def keeps_on_device(device: str) -> bool:
    """Whether cache and logits stay on a device; on the CPU they are in memory, and written in place."""
    return device != "cpu"


class CausalModel:
    """A decoder-only generator."""

    begun: tuple[int, ...] = ()
    max_positions: int | None = None  # the prompt counts too: the decoder knows
    vision: Vision | None = None

    def __init__(self, decoder: CausalDecoder, head: Head, part: CausalGeneratorPart) -> None:
        self.decoder = decoder
        self.head = head
        self._part = part

    def start(
        self,
        preamble: Sequence[int],
        pieces: Pieces,
        counts: Sequence[int],
        *,
        seen: Seen | None = None,
        reserve: int,
        cancellation: Cancellation | None,
    ) -> tuple[Any, Any, Scorer]:
        """See `Model.start`."""
        del seen  # none of this kind does
        state, logits = self.decoder.prefill(preamble, pieces, reserve=reserve, cancellation=cancellation)
        rows = [[*preamble, *(t for piece in pieces for t in piece[r])] for r in range(sum(counts))]
        return state, logits, _CausalScorer(self.decoder, rows, cancellation)

    def scorer(
        self, rows: Sequence[Sequence[int]], begun: tuple[int, ...], *, seen: Seen | None = None
    ) -> Scorer:
        """See `Model.scorer`."""
        del begun, seen  # nothing is
        return _CausalScorer(self.decoder, rows, None)


class _CausalScorer:
    """Reads a question's prompts once for all its answers; only as they are needed, which RAG-Token never does."""

    def __init__(
        self, decoder: CausalDecoder, rows: Sequence[Sequence[int]], cancellation: Cancellation | None
    ) -> None:
        self._decoder = decoder
        self._rows = rows
        self._cancellation = cancellation
        self._read: tuple[Sequence[Sequence[int]], CausalState, Float] | None = None

    def logits(self, rows: slice, answers: NDArray[np.int64]) -> Float:
        """See `Scorer.logits`."""
        prompts = self._rows[rows]
        if self._read is None or self._read[0] != prompts:
            self._read = (
                prompts,
                *self._decoder.prefill((), [prompts], reserve=0, cancellation=self._cancellation),
            )
        _, state, first = self._read
        return self._decoder.follow(state, first, answers, cancellation=self._cancellation)


class Seq2SeqModel:
    """An encoder-decoder generator."""

    def __init__(
        self, decoder: Seq2SeqDecoder, head: Head, part: Seq2SeqGeneratorPart, vision: Vision | None
    ) -> None:
        self.decoder = decoder
        self.head = head
        self.vision = vision
        self.begun: tuple[int, ...] = (part.decoder_start_token_id,)
        self.max_positions = part.max_positions

    def start(
        self,
        preamble: Sequence[int],
        pieces: Pieces,
        counts: Sequence[int],
        *,
        seen: Seen | None = None,
        reserve: int,
        cancellation: Cancellation | None,
    ) -> tuple[Any, Any, Scorer]:
        """See `Model.start`; a context is one piece, and nothing comes before it."""
        del preamble
        state = self.decoder.read(pieces[0], counts, seen=seen, reserve=reserve, cancellation=cancellation)
        read = replace(state, cache=copy(state.cache))
        scorer = _Seq2SeqScorer(self.decoder, read, self.begun, cancellation)
        return state, self.decoder.start(state, cancellation=cancellation), scorer

    def scorer(
        self, rows: Sequence[Sequence[int]], begun: tuple[int, ...], *, seen: Seen | None = None
    ) -> Scorer:
        """See `Model.scorer`."""
        return _Seq2SeqScorer(self.decoder, self.decoder.read(rows, [len(rows)], seen=seen), begun, None)


class _Seq2SeqScorer:
    """Scores over contexts that were read once: nothing is encoded again."""

    def __init__(
        self,
        decoder: Seq2SeqDecoder,
        state: Seq2SeqState,
        begun: tuple[int, ...],
        cancellation: Cancellation | None,
    ) -> None:
        self._cancellation = cancellation
        self._decoder = decoder
        self._state = state
        self._begun = begun

    def logits(self, rows: slice, answers: NDArray[np.int64]) -> Float:
        """See `Scorer.logits`."""
        begun = np.tile(np.array(self._begun, dtype=np.int64), (len(answers), 1))
        tokens = np.concatenate([begun, answers[:, :-1]], axis=1)
        state = self._state.of_one_question(rows)
        return self._decoder.teacher_force(state, tokens, cancellation=self._cancellation)
