"""Keys and values that lie on the device while tokens are generated.

Each step's keys and values are written into slots by ``append.onnx``, rows are taken by ``keep.onnx``
(`rag_infer.export.device_graphs`). The slots are reserved ahead, so that shapes, and with them the blocks of ONNX
Runtime's arena, stay the same from step to step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag_infer.session import Cancellation, Session


@dataclass(frozen=True)
class DeviceGraphs:
    """The sessions of ``append.onnx`` and ``keep.onnx``."""

    append: Session
    keep: Session


class DeviceCache:
    """A batch's keys and values, as the graph that steps takes them.

    Args:
        graphs: what changes them.
        arrays: by the name of the step's input, arrays or what already lies on the device.
    """

    def __init__(self, graphs: DeviceGraphs, arrays: Mapping[str, Any]) -> None:
        self._graphs = graphs
        self._arrays = {
            name: graphs.keep.to_device(a) if isinstance(a, np.ndarray) else a for name, a in arrays.items()
        }
        self._new = [name for name in graphs.append.input_names if name.startswith("new_")]

    @property
    def slots(self) -> int:
        """Slots for generated tokens, and of a decoder-only generator for the prompt."""
        return int(self._arrays["past_keys_0"].shape()[2])

    def run(
        self,
        session: Session,
        inputs: Mapping[str, Any],
        *,
        fetched: bool = False,
        cancellation: Cancellation | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Run the graph that steps.

        Args:
            session: its session.
            inputs: the inputs that are not of the cache.
            fetched: whether the logits are to come back.
            cancellation: stops the run.

        Returns:
            The logits, and the keys and values of the new tokens.
        """
        known = {**inputs, **self._arrays}
        given = {name: a for name, a in known.items() if name in session.input_names}
        kept, back = (self._new, ["logits"]) if fetched else (["logits", *self._new], [])
        found = session.run_on_device(given, kept=kept, fetched=back, cancellation=cancellation)
        return found.pop("logits"), found

    def write(self, new: Mapping[str, Any], used: int) -> None:
        """Put the new tokens' keys and values into the slots from ``used`` on."""
        append = self._graphs.append
        inputs = {name: a for name, a in self._arrays.items() if name.startswith("past_")}
        queries = next(iter(new.values())).shape()[-2]
        for name, like in (("places", list(inputs)[-1]), ("question_places", "past_keys_0")):
            if name in append.input_names:
                rows, heads = inputs[like].shape()[:2]
                inputs[name] = _places(rows, heads, slice(used, used + queries))
        # Into the arrays they are read from: the graph's one operator then copies nothing but what is new.
        into = {f"next_{name}": a for name, a in self._arrays.items() if name.startswith("past_")}
        append.run_on_device({**inputs, **new}, into=into)

    def reserve(self, slots: int) -> None:
        """Have at least so many slots. This alone goes through the host; it is done for answers longer than planned."""
        more = slots - self.slots
        if more <= 0:
            return
        around = ((0, 0), (0, 0), (0, more), (0, 0))
        self._arrays = {
            name: self._graphs.keep.to_device(np.pad(a.numpy(), around)) if name.startswith("past_") else a
            for name, a in self._arrays.items()
        }

    def keep(self, rows: Sequence[int], questions: Sequence[int]) -> None:
        """Drop all rows but these, and all questions but theirs."""
        self._arrays = self._chosen(rows, questions)

    def of_rows(self, rows: slice, questions: slice) -> DeviceCache:
        """Some rows alone, with slots for as many tokens as here; a copy. What is in the slots must not be seen."""
        chosen = (range(s.start, s.stop) for s in (rows, questions))
        return DeviceCache(self._graphs, self._chosen(*chosen))

    def _chosen(self, rows: Sequence[int], questions: Sequence[int]) -> dict[str, Any]:
        keep = self._graphs.keep
        inputs: dict[str, Any] = {**self._arrays, "rows": np.array(rows, dtype=np.int64)}
        if "questions" in keep.input_names:
            inputs["questions"] = np.array(questions, dtype=np.int64)
        found = keep.run_on_device(inputs, kept=keep.output_names)
        return {name.removeprefix("kept_"): value for name, value in found.items()}


def _places(rows: int, heads: int, slots: slice) -> NDArray[np.int64]:
    """Where keys and values ``[rows, heads, queries]`` go: int64 ``[rows, heads, queries, 3]``."""
    grid = np.meshgrid(np.arange(rows), np.arange(heads), np.arange(slots.start, slots.stop), indexing="ij")
    return np.stack(grid, axis=-1).astype(np.int64)
