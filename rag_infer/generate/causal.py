"""The decoder-only generator: one graph that prefills and steps, and the cache of keys and values it needs.

The graph never reorders or copies the cache. Its slots belong to a row (a question's passage) and are shared
by all queries of the row, the tokens of one prompt piece or the beams of a step; ``attention_bias`` says which
query sees which slot. So beams cost a slot per token and no copy of the prompt, padding needs no special case,
and several draft tokens could be verified in one step ("tree attention", as in SpecInfer, Miao et al. 2023).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag_infer.errors import GenerationError
from rag_infer.generate.causal_state import CausalState
from rag_infer.generate.device_cache import DeviceCache, DeviceGraphs
from rag_infer.generate.prefix_cache import PrefixCache
from rag_infer.parts import CausalGeneratorPart
from rag_infer.session import Cancellation, Session
from rag_infer.text import SLOT_BUCKET, bucket, pad

Float = NDArray[np.float32]


class CausalDecoder:
    """Runs the graph of a `CausalGeneratorPart`. Safe to share between threads.

    Args:
        session: the session of ``decoder.onnx``.
        part: the generator's entry in the manifest.
        cache_bytes: how much to keep of the keys and values of first pieces of prompts.
        device: what keeps the cache of the steps on the device, or None for a cache in memory.
    """

    def __init__(
        self,
        session: Session,
        part: CausalGeneratorPart,
        *,
        cache_bytes: int = 0,
        device: DeviceGraphs | None = None,
    ) -> None:
        self._session = session
        self._device = device
        self._part = part
        self._prefixes: dict[tuple[int, ...], Float] = {}
        self._lock = threading.Lock()
        self._passages = PrefixCache(cache_bytes)

    def prefill(
        self,
        preamble: Sequence[int],
        pieces: Sequence[Sequence[Sequence[int]]],
        *,
        reserve: int,
        cancellation: Cancellation | None = None,
    ) -> tuple[CausalState, Float]:
        """Read the prompts.

        Args:
            preamble: tokens before every row, the same in all; computed once and kept.
            pieces: one or more pieces of prompt, each a list of token rows; a row's prompt is the preamble and its
                row of each piece, concatenated.
            reserve: slots to leave for generated tokens.

        Returns:
            The state, and the logits after the last token: float32 ``[rows, 1, vocab]``.

        Raises:
            GenerationError: a prompt is empty, or longer than the model's positions.
        """
        rows = len(pieces[0])
        longest = max(len(preamble) + sum(len(piece[r]) for piece in pieces) for r in range(rows))
        if longest >= self._part.max_positions:
            raise GenerationError(
                f"a prompt of {longest} tokens leaves no room in {self._part.max_positions} positions"
            )
        widths = [bucket(max(map(len, piece))) for piece in pieces]
        slots = bucket(len(preamble) + sum(widths) + reserve, SLOT_BUCKET)
        state = self._allocate(rows, slots)
        if preamble:
            self._write(state, self._prefix(tuple(preamble)), np.full(rows, len(preamble)))
        first, *others = pieces
        if others:
            self._write(state, *self._passage(state, tuple(preamble), first, cancellation))
        else:
            others = [first]
        for piece in others:
            logits, new, lengths = self._read(state, piece, cancellation)
            self._write(state, new, lengths)
        if lengths.min() == 0:
            raise GenerationError("a prompt ends with an empty piece: there is no token to predict from")
        return state, logits

    def step(
        self,
        state: CausalState,
        parents: NDArray[np.int64],
        tokens: NDArray[np.int64],
        *,
        cancellation: Cancellation | None = None,
    ) -> Any:
        """Append one token to each beam.

        Args:
            state: changed in place.
            parents: int64 ``[rows, beams]``, the beam of the last step that each new one extends.
            tokens: int64 ``[rows, beams]``, the token it is extended by.

        Returns:
            Logits after the new tokens: float32 ``[rows, beams, vocab]``, on the device where the cache is there.

        Raises:
            GenerationError: there is no position left.
        """
        rows, beams = tokens.shape
        self._check_positions(int(state.lengths.max()) + 1)
        state.reserve(beams)
        state.visible = np.take_along_axis(state.visible, parents[:, :, None], axis=1)
        positions = np.repeat(state.lengths[:, None], beams, axis=1)
        alone = np.broadcast_to(np.eye(beams, dtype=bool), (rows, beams, beams))
        outputs = np.broadcast_to(np.arange(beams, dtype=np.int64), (rows, beams))
        slots = slice(state.used, state.used + beams)
        if self._device is None:
            logits, new = self._run(tokens, positions, state, alone, outputs, cancellation)
            state.keys_values[..., slots, :] = new
        else:
            if state.on_device is None:
                state.move(DeviceCache(self._device, self._past(state)))
            assert state.on_device is not None
            inputs = self._inputs(tokens, positions, state, alone, outputs)
            logits, latest = state.on_device.run(self._session, inputs, cancellation=cancellation)
            state.on_device.write(latest, state.used)
        state.visible[:, :, slots] = alone
        state.used += beams
        state.lengths = state.lengths + 1
        return logits

    def teacher_force(self, prompts: Sequence[Sequence[int]], answer: Sequence[int]) -> Float:
        """Logits that predict each token of a given answer after each prompt: float32 ``[rows, tokens, vocab]``."""
        state, first = self.prefill((), [prompts], reserve=0)
        return self.follow(state, first, np.array([answer], dtype=np.int64))[:, 0]

    def follow(
        self,
        state: CausalState,
        first: Float,
        answers: NDArray[np.int64],
        *,
        cancellation: Cancellation | None = None,
    ) -> Float:
        """Logits that predict each token of given answers.

        Args:
            state: after the prefill; not changed.
            first: the logits it gave, float32 ``[rows, 1, vocab]``.
            answers: int64 ``[answers, tokens]``. They are branches of one tree: each token sees the prompt and those
                before it in its own answer.

        Returns:
            float32 ``[rows, answers, tokens, vocab]``.
        """
        rows, (count, length) = len(first), answers.shape
        begin = np.repeat(first[:, None], count, axis=1)
        width = length - 1
        if width == 0:
            return begin
        self._check_positions(int(state.lengths.max()) + width)
        ids = np.tile(answers[:, :-1].reshape(1, -1), (rows, 1))
        positions = state.lengths[:, None] + np.tile(np.arange(width), count)
        branch = np.kron(np.eye(count, dtype=bool), np.tril(np.ones((width, width), dtype=bool)))
        seen = np.broadcast_to(branch, (rows, *branch.shape))
        outputs = np.broadcast_to(np.arange(count * width, dtype=np.int64), (rows, count * width))
        logits, _ = self._run(ids, positions, state, seen, outputs, cancellation)
        return np.concatenate([begin, logits.reshape(rows, count, width, -1)], axis=2)

    def _check_positions(self, tokens: int) -> None:
        if tokens > self._part.max_positions:
            raise GenerationError(
                f"prompt and answer have {tokens} tokens, above the model's {self._part.max_positions} positions: "
                "ask for fewer new tokens, or give shorter contexts"
            )

    def _allocate(self, rows: int, slots: int) -> CausalState:
        part = self._part
        shape = (part.num_layers, 2, rows, part.num_kv_heads, slots, part.head_dim)
        visible = np.zeros((rows, 1, slots), dtype=bool)
        dtype = self._session.dtype("past_keys_0")
        return CausalState(np.zeros(shape, dtype=dtype), 0, visible, np.zeros(rows, dtype=np.int64))

    def _prefix(self, preamble: tuple[int, ...]) -> Float:
        """Keys and values of the preamble: float32 ``[layers, 2, 1, kv_heads, tokens, head_dim]``."""
        with self._lock:
            if preamble not in self._prefixes:
                state = self._allocate(1, 0)
                ids = np.array([preamble], dtype=np.int64)
                self._prefixes[preamble] = self._run_piece(state, ids, np.ones_like(ids, dtype=bool), None)[1]
            return self._prefixes[preamble]

    def _passage(
        self,
        state: CausalState,
        preamble: tuple[int, ...],
        piece: Sequence[Sequence[int]],
        cancellation: Cancellation | None,
    ) -> tuple[Float, NDArray[np.int64]]:
        """Keys and values of the first piece, and its rows' lengths; what was read before is not read again."""
        keys = [(preamble, tuple(row)) for row in piece]
        found = {key: known for key in keys if (known := self._passages.get(key)) is not None}
        first = {key: i for i, key in reversed(list(enumerate(keys)))}
        new = [i for key, i in first.items() if key not in found]
        if new:
            _, read, lengths = self._read(state.some_rows(new), [piece[i] for i in new], cancellation)
            for j, i in enumerate(new):
                found[keys[i]] = read[:, :, j : j + 1, :, : lengths[j]].copy()
                self._passages.put(keys[i], found[keys[i]])
        lengths = np.array([len(row) for row in piece], dtype=np.int64)
        return _stack([found[key] for key in keys], width=bucket(int(lengths.max()))), lengths

    def _read(
        self, state: CausalState, piece: Sequence[Sequence[int]], cancellation: Cancellation | None
    ) -> tuple[Float, Float, NDArray[np.int64]]:
        """Run one piece of the prompts: (logits after it, its keys and values, its rows' lengths)."""
        lengths = np.array([len(row) for row in piece], dtype=np.int64)
        ids, mask = pad(piece, self._part.pad_token_id)
        if len({bucket(n) for n in lengths.tolist()}) == 1:
            logits, new = self._run_piece(state, ids, mask.astype(bool), cancellation)
            return logits, new, lengths
        # Row by row: a row of a passage's length keeps the processors busy, and none computes padding.
        parts = [
            self._run_piece(state.some_rows([i]), *_trim(ids[i], mask[i]), cancellation)
            for i in range(len(piece))
        ]
        logits = np.concatenate([part[0] for part in parts])
        return logits, _stack([part[1] for part in parts], width=ids.shape[1]), lengths

    def _run_piece(
        self,
        state: CausalState,
        ids: NDArray[np.int64],
        mask: NDArray[np.bool_],
        cancellation: Cancellation | None,
    ) -> tuple[Float, Float]:
        width = ids.shape[1]
        positions = np.minimum(state.lengths[:, None] + np.arange(width), self._part.max_positions - 1)
        # A padded query sees itself, or its softmax would have nothing to share out.
        seen = (np.tril(np.ones((width, width), dtype=bool)) & mask[:, None, :]) | np.eye(width, dtype=bool)
        last = np.maximum(mask.sum(axis=1, keepdims=True) - 1, 0)
        return self._run(ids, positions, state, seen, last, cancellation)

    @staticmethod
    def _write(state: CausalState, new: Float, lengths: NDArray[np.int64]) -> None:
        """Put a piece's keys and values into the next slots; a row's padding stays unseen."""
        width = new.shape[4]
        slots = slice(state.used, state.used + width)
        state.keys_values[..., slots, :] = new
        state.visible[:, :, slots] = (np.arange(width) < lengths[:, None])[:, None, :]
        state.used += width
        state.lengths = state.lengths + lengths

    def _run(
        self,
        ids: NDArray[np.int64],
        positions: NDArray[np.int64],
        state: CausalState,
        new_visible: NDArray[np.bool_],
        outputs: NDArray[np.int64],
        cancellation: Cancellation | None,
    ) -> tuple[Float, Float]:
        """(logits ``[rows, outputs, vocab]``, keys and values of the new tokens)."""
        inputs = {**self._inputs(ids, positions, state, new_visible, outputs), **self._past(state)}
        logits, new = self._session.run(inputs, ["logits", "new_keys_values"], cancellation=cancellation)
        return logits, new

    @staticmethod
    def _inputs(
        ids: NDArray[np.int64],
        positions: NDArray[np.int64],
        state: CausalState,
        new_visible: NDArray[np.bool_],
        outputs: NDArray[np.int64],
    ) -> dict[str, NDArray[Any]]:
        """The graph's inputs but for the cache."""
        rows, queries = ids.shape
        past_visible = np.broadcast_to(state.visible, (rows, queries, state.visible.shape[2]))
        visible = np.concatenate([past_visible, new_visible], axis=2)
        return {
            "input_ids": np.ascontiguousarray(ids),
            "position_ids": np.ascontiguousarray(positions),
            "attention_bias": np.where(visible, np.float32(0), np.float32(-np.inf)),
            "logit_positions": np.ascontiguousarray(outputs),
        }

    def _past(self, state: CausalState) -> dict[str, Float]:
        """The cache in memory, as the graph takes it."""
        return {
            f"past_{what}_{layer}": state.keys_values[layer, i]
            for layer in range(self._part.num_layers)
            for i, what in enumerate(("keys", "values"))
        }


def _trim(ids: NDArray[np.int64], mask: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """One padded row, ``[1, tokens]``, with no more padding than its own length's bucket."""
    width = bucket(int(mask.sum()))
    return ids[None, :width], mask[None, :width].astype(bool)


def _stack(parts: Sequence[Float], width: int) -> Float:
    """Keys and values of single rows as ``[layers, 2, rows, kv_heads, width, head_dim]``, zeros behind short ones."""
    layers, two, _, heads, _, dim = parts[0].shape
    stacked = np.zeros((layers, two, len(parts), heads, width, dim), dtype=parts[0].dtype)
    for i, part in enumerate(parts):
        stacked[:, :, i, :, : part.shape[4]] = part[:, :, 0]
    return stacked
