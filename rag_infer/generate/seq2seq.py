"""The encoder-decoder generator: a graph that reads contexts, a graph that steps, and the cache between them.

Contexts are read once. A context's keys and values for cross-attention belong to its row and serve all beams of the
row, which are queries side by side. What was generated lies in slots that the beams of a question share, as in
`rag_infer.generate.causal`: ``attention_bias`` says which beam sees which slot, nothing is reordered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag_infer.errors import GenerationError
from rag_infer.generate.contexts import ContextInputs, context_inputs, stack
from rag_infer.generate.device_cache import DeviceCache, DeviceGraphs
from rag_infer.generate.host_cache import HostCache
from rag_infer.generate.vision import Seen
from rag_infer.parts import Seq2SeqGeneratorPart
from rag_infer.session import Cancellation, Session
from rag_infer.text import SLOT_BUCKET, bucket, larger_capacity

Float = NDArray[np.float32]


@dataclass
class Seq2SeqState:
    """The questions in progress, their contexts and their cache.

    Attributes:
        cache: keys and values, in memory or on the device.
        cross_bias: float32 ``[rows, places]``, 0 where a context has a token or an image's feature, minus infinity
            elsewhere.
        question_of_row: int64 ``[rows]``, ascending.
        visible: bool ``[questions, beams, slots]``, the slots each beam sees.
        positions: int64 ``[questions, slots]``, the position of the token in each slot.
        used: slots that have been written.
        length: tokens of every beam so far, the start token included.
    """

    cache: HostCache | DeviceCache
    cross_bias: Float
    question_of_row: NDArray[np.int64]
    visible: NDArray[np.bool_]
    positions: NDArray[np.int64]
    used: int = 0
    length: int = 0

    @classmethod
    def begin(
        cls, cache: HostCache | DeviceCache, cross_bias: Float, question_of_row: NDArray[np.int64]
    ) -> Seq2SeqState:
        """The state before anything is generated: no slot of the cache is seen."""
        questions = int(question_of_row[-1]) + 1
        return cls(
            cache=cache,
            cross_bias=cross_bias,
            question_of_row=question_of_row,
            visible=np.zeros((questions, 1, cache.slots), dtype=bool),
            positions=np.zeros((questions, cache.slots), dtype=np.int64),
        )

    @property
    def first_rows(self) -> NDArray[np.intp]:
        """The first row of each question."""
        return np.searchsorted(self.question_of_row, np.arange(len(self.visible)))

    def of_one_question(self, rows: slice) -> Seq2SeqState:
        """The rows of a question, as they were before anything was generated."""
        bias, first = self.cross_bias[rows], int(self.question_of_row[rows][0])
        cache = self.cache.of_rows(rows, slice(first, first + 1))
        return Seq2SeqState.begin(cache, bias, np.zeros(len(bias), dtype=np.int64))

    def reserve(self, slots: int) -> None:
        """Make room for ``slots`` more."""
        capacity = self.visible.shape[2]
        if self.used + slots <= capacity:
            return
        larger = larger_capacity(capacity, self.used + slots)
        self.cache.reserve(larger)
        more = larger - capacity
        self.visible = np.pad(self.visible, ((0, 0), (0, 0), (0, more)))
        self.positions = np.pad(self.positions, ((0, 0), (0, more)))

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Drop all rows but these; of each question all or none."""
        of_row = self.question_of_row[rows]
        questions = np.unique(of_row)
        self.cache.keep(rows, questions.tolist())
        self.cross_bias = self.cross_bias[rows]
        self.visible, self.positions = self.visible[questions], self.positions[questions]
        self.question_of_row = np.searchsorted(questions, of_row).astype(np.int64)


class Seq2SeqDecoder:
    """Runs the graphs of a `Seq2SeqGeneratorPart`. Safe to share between threads.

    Args:
        encoder: the session of ``encoder.onnx``.
        step: the session of ``step.onnx``.
        part: the generator's entry in the manifest.
        device: what keeps the cache on the device, or None for a cache in memory.
    """

    def __init__(
        self,
        encoder: Session,
        step: Session,
        part: Seq2SeqGeneratorPart,
        *,
        device: DeviceGraphs | None = None,
    ) -> None:
        self._encoder = encoder
        self._step = step
        self._part = part
        self._device = device

    def read(
        self,
        contexts: Sequence[Sequence[int]],
        counts: Sequence[int],
        *,
        seen: Seen | None = None,
        reserve: int = 0,
        cancellation: Cancellation | None = None,
    ) -> Seq2SeqState:
        """Read contexts, and be ready to generate or to score.

        Args:
            contexts: token ids of each, question by question.
            counts: how many each question has.
            seen: what they see; for a generator that sees, and only for one.
            reserve: slots to leave for generated tokens on a device.
            cancellation: stops the run.

        Raises:
            GenerationError: a context is longer than the model's positions.
        """
        question_of_row = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
        inputs = context_inputs(contexts, self._part, seen)
        read = self._read if self._device is None else self._read_on_device
        cache = read(inputs, len(counts), reserve, cancellation)
        return Seq2SeqState.begin(cache, inputs.bias, question_of_row)

    def start(self, state: Seq2SeqState, *, cancellation: Cancellation | None = None) -> Any:
        """Logits of the first token, after the start token, as `step` gives them; ``state`` is changed."""
        rows = len(state.question_of_row)
        tokens = np.full((rows, 1), self._part.decoder_start_token_id, dtype=np.int64)
        return self.step(state, np.zeros_like(tokens), tokens, cancellation=cancellation)

    def step(
        self,
        state: Seq2SeqState,
        parents: NDArray[np.int64],
        tokens: NDArray[np.int64],
        *,
        cancellation: Cancellation | None = None,
    ) -> Any:
        """Append one token to each beam.

        Args:
            state: changed in place.
            parents: int64 ``[rows, beams]``, the beam of the last step that each new one extends; the same in all
                rows of a question.
            tokens: int64 ``[rows, beams]``, the token it is extended by.

        Returns:
            Logits after the new tokens: float32 ``[rows, beams, vocab]``, on the device where the cache is there.

        Raises:
            GenerationError: there is no position left.
        """
        self._check_length(state.length + 1)
        first = state.first_rows
        parents, tokens = parents[first], tokens[first]
        questions, beams = tokens.shape
        state.reserve(beams)
        state.visible = np.take_along_axis(state.visible, parents[:, :, None], axis=1)
        alone = np.broadcast_to(np.eye(beams, dtype=bool), (questions, beams, beams))
        visible = np.concatenate([state.visible, alone], axis=2)
        positions = np.full((questions, beams), state.length, dtype=np.int64)
        logits, new = self._run(state, tokens, positions, visible, cancellation)
        slots = slice(state.used, state.used + beams)
        state.cache.write(new, state.used)
        state.visible[:, :, slots] = alone
        state.positions[:, slots] = positions
        state.used += beams
        state.length += 1
        return logits

    def teacher_force(
        self, state: Seq2SeqState, answers: NDArray[np.int64], *, cancellation: Cancellation | None = None
    ) -> Float:
        """Logits that predict what follows each token of given answers.

        Args:
            state: of one question, after `read`; not changed.
            answers: int64 ``[answers, tokens]``, from the start token on. They are branches of one tree: each token
                sees those before it in its own answer.

        Returns:
            float32 ``[rows, answers, tokens, vocab]``.
        """
        count, length = answers.shape
        self._check_length(length)
        branch = np.kron(np.eye(count, dtype=bool), np.tril(np.ones((length, length), dtype=bool)))
        visible = np.pad(branch, ((0, 0), (state.visible.shape[2], 0)))[None]  # no slot, but each other
        positions = np.tile(np.arange(length, dtype=np.int64), (1, count))
        logits: Float
        logits, _ = self._run(state, answers.reshape(1, -1), positions, visible, cancellation, fetched=True)
        shaped: Float = logits.reshape(len(logits), count, length, -1)
        return shaped

    def _check_length(self, length: int) -> None:
        limit = self._part.max_positions
        if limit is not None and length > limit:
            raise GenerationError(
                f"an answer of {length} tokens is above the model's {limit} positions: ask for fewer tokens"
            )

    def _cross_names(self) -> list[str]:
        return [f"cross_{what}_{i}" for i in range(self._part.num_layers) for what in ("keys", "values")]

    def _past(self, questions: int, rows: int, slots: int) -> list[Float]:
        part, dtype = self._part, self._step.dtype("past_keys_0")
        return [
            np.zeros((questions if i < 2 else rows, part.num_heads, slots, part.head_dim), dtype=dtype)
            for i in range(2 * part.num_layers)
        ]

    def _read(
        self, read: ContextInputs, questions: int, reserve: int, cancellation: Cancellation | None
    ) -> HostCache:
        """Keys and values of the contexts."""
        del reserve  # memory grows as it is used
        names, past = self._cross_names(), self._past(questions, len(read.bias), 0)
        if len(set(read.token_widths)) == 1:
            return HostCache(self._encoder.run(read.inputs, names, cancellation=cancellation), past)
        # Row by row: a row of a passage's length keeps the processors busy, and none computes padding.
        parts = [self._encoder.run(row, names, cancellation=cancellation) for row in read.alone()]
        width = read.bias.shape[1]
        cross = [stack(arrays, width, axis=3 - i % 2) for i, arrays in enumerate(zip(*parts, strict=True))]
        return HostCache(cross, past)

    def _read_on_device(
        self, read: ContextInputs, questions: int, reserve: int, cancellation: Cancellation | None
    ) -> DeviceCache:
        """As `_read`, all rows at once: what is read stays on the device."""
        assert self._device is not None
        cross = self._encoder.run_on_device(read.inputs, kept=self._cross_names(), cancellation=cancellation)
        past = self._past(questions, len(read.bias), bucket(max(reserve, 1), SLOT_BUCKET))
        names = [f"past_{what}_{i}" for i in range(self._part.num_layers) for what in ("keys", "values")]
        return DeviceCache(self._device, {**cross, **dict(zip(names, past, strict=True))})

    def _run(
        self,
        state: Seq2SeqState,
        tokens: NDArray[np.int64],
        positions: NDArray[np.int64],
        visible: NDArray[np.bool_],
        cancellation: Cancellation | None,
        *,
        fetched: bool = False,
    ) -> tuple[Any, Any]:
        """(logits ``[rows, queries, vocab]``, keys and values of the new tokens)."""
        inputs = {
            "input_ids": np.ascontiguousarray(tokens),
            "position_ids": positions,
            "slot_positions": np.concatenate([state.positions, positions], axis=1),
            "attention_bias": np.where(visible, np.float32(0), np.float32(-np.inf)),
            "cross_bias": state.cross_bias,
            "question_of_row": state.question_of_row,
        }
        # A family has absolute positions or relative ones, not both: the cache leaves out what the graph lacks.
        return state.cache.run(self._step, inputs, fetched=fetched, cancellation=cancellation)
