"""Whether float16 can hold what a graph computes: seen in the float32 graph, for a CPU shows no overflow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from rag_infer.errors import ExportError
from rag_infer.export.half import LARGEST, Keep
from rag_infer.session import Cancellation, Session

# What makes numbers larger than those it reads.
GROWING = ("MatMul", "FusedMatMul", "Attention", "Add", "Mul")
WATCHED = "largest"
# How much larger other inputs may get than the samples.
HEADROOM = 2.0


class RangeSession(Session):
    """A float32 graph, and the largest magnitude of each value that its float16 twin will hold.

    Minus infinity, which is in the scores of what is not seen, does not count.

    Args:
        path: the float32 graph.
        keep: as `rag_infer.export.half.halve_graph` takes it.

    Attributes:
        largest: by the name of the value, over all runs.
    """

    def __init__(self, path: Path, keep: Keep | None = None) -> None:
        model = onnx.load(path, load_external_data=False)
        kept = keep(model.graph) if keep is not None else set()
        nodes = [n for n in model.graph.node if n.op_type in GROWING and n.name not in kept]
        self.largest: dict[str, float] = {node.output[0]: 0.0 for node in nodes}
        _watch(model, list(self.largest))
        watched = path.with_name(f"{WATCHED}.{path.name}")
        watched.write_bytes(model.SerializeToString())
        super().__init__(watched)
        watched.unlink()
        self.path = path

    def run(
        self,
        inputs: Mapping[str, NDArray[Any]],
        outputs: Sequence[str] | None = None,
        *,
        cancellation: Cancellation | None = None,
    ) -> list[NDArray[Any]]:
        """As `Session.run`."""
        asked = outputs if outputs is not None else [n for n in self.output_names if n != WATCHED]
        *found, largest = super().run(inputs, [*asked, WATCHED], cancellation=cancellation)
        for name, value in zip(self.largest, largest.tolist(), strict=True):
            self.largest[name] = max(self.largest[name], value)
        return found


def choose_keep(
    paths: Sequence[Path], run: Callable[[Sequence[Session]], object], choices: Sequence[Keep | None]
) -> tuple[Keep | None, float]:
    """What must stay float32 so that float16 holds everything else.

    Args:
        paths: float32 graphs that belong together.
        run: is given their sessions, and runs them on sample inputs.
        choices: from least to most, as `rag_infer.export.half.halve_graph` takes them.

    Returns:
        The first choice that suffices, and the largest magnitude it leaves to float16.

    Raises:
        ExportError: none does; the message names the value.
    """
    for keep in choices:
        sessions = [RangeSession(path, keep) for path in paths]
        run(sessions)
        largest, name = max(
            (value, f"{s.path.name}: {n}") for s in sessions for n, value in s.largest.items()
        )
        if largest <= LARGEST / HEADROOM:
            return keep, largest
    raise ExportError(
        f"{name} reaches {largest:.4g} on sample inputs; float16 ends at {LARGEST:.0f}, and a factor of {HEADROOM:.0f} "
        "is left for other inputs: export in fp32"
    )


def _watch(model: onnx.ModelProto, names: Sequence[str]) -> None:
    """Add an output with the largest magnitude of each value but minus infinity, float32 ``[names]``."""
    constants: dict[str, NDArray[Any]] = {
        "watch_zero": np.zeros(1, dtype=np.float32),
        "watch_infinity": np.full(1, np.inf, dtype=np.float32),
        "watch_flat": np.array([-1], dtype=np.int64),
    }
    for name, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    for name in names:
        model.graph.node.extend(_magnitude(name))
    model.graph.node.append(helper.make_node("Concat", [f"watch_{n}_max" for n in names], [WATCHED], axis=0))
    model.graph.output.append(helper.make_tensor_value_info(WATCHED, TensorProto.FLOAT, [len(names)]))


def _magnitude(name: str) -> list[NodeProto]:
    """Of a value of any type and shape, also an empty one."""
    at = f"watch_{name}"
    return [
        helper.make_node("Cast", [name], [f"{at}_float"], to=TensorProto.FLOAT),
        # Minus infinity is a mask; any other is too large.
        helper.make_node("IsInf", [f"{at}_float"], [f"{at}_infinite"], detect_positive=0),
        helper.make_node("Where", [f"{at}_infinite", "watch_zero", f"{at}_float"], [f"{at}_finite"]),
        helper.make_node("Abs", [f"{at}_finite"], [f"{at}_magnitude"]),
        helper.make_node("IsNaN", [f"{at}_magnitude"], [f"{at}_nan"]),  # which ReduceMax would pass over
        helper.make_node("Where", [f"{at}_nan", "watch_infinity", f"{at}_magnitude"], [f"{at}_abs"]),
        helper.make_node("Reshape", [f"{at}_abs", "watch_flat"], [f"{at}_flat"]),
        helper.make_node("Concat", ["watch_zero", f"{at}_flat"], [f"{at}_all"], axis=0),
        helper.make_node("ReduceMax", [f"{at}_all"], [f"{at}_max"], keepdims=1),
    ]
