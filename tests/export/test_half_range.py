"""What float16 cannot hold is found in the float32 graph, and stays float32 or is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser

from rag_infer.errors import ExportError
from rag_infer.export import export_bundle
from rag_infer.export.half import residual_nodes
from rag_infer.export.half_range import RangeSession, choose_keep
from rag_infer.session import Session
from tests.tiny_llama import write_llama


def write(folder: Path, *, factor: float = 1.0, part: str = "down_proj") -> Path:
    """A Llama graph, some weights of its first layer multiplied."""
    model = write_llama(folder / "c")
    getattr(model.model.layers[0].mlp, part).weight.data *= factor
    model.save_pretrained(folder / "c")
    return export_bundle(folder / "b", generator=folder / "c").folder / "generator" / "decoder.onnx"


def read(sessions: Sequence[Session]) -> list[np.ndarray]:
    """Run a graph on five tokens, the last of which is not seen."""
    positions = np.arange(5)[None]
    bias = np.zeros((1, 5, 5), dtype=np.float32)
    bias[:, :4, 4] = -np.inf
    past = np.zeros((1, 2, 0, 8), dtype=np.float32)
    caches = {f"past_{what}_{i}": past for what in ("keys", "values") for i in range(2)}
    inputs = {"input_ids": positions + 7, "position_ids": positions, "attention_bias": bias}
    return sessions[0].run({**inputs, "logit_positions": positions, **caches})


def test_largest(tmp_path: Path) -> None:
    graph = write(tmp_path)
    before = sorted(p.name for p in graph.parent.iterdir())
    session = RangeSession(graph)
    plain = read([Session(graph)])
    for expected, found in zip(plain, read([session]), strict=True):
        np.testing.assert_array_equal(expected, found)
    assert session.largest["logits"] == np.abs(plain[0]).max()
    assert all(0 <= value < 1e3 for value in session.largest.values())
    assert before == sorted(p.name for p in graph.parent.iterdir())


def test_what_is_needed_stays_float32(tmp_path: Path) -> None:
    choices = (None, residual_nodes)
    keep, largest = choose_keep([write(tmp_path / "small")], read, choices)
    assert keep is None
    assert largest < 1e3
    # The layer's product is above the range, and so are the sums after it.
    graph = write(tmp_path / "large", factor=3e3)
    keep, largest = choose_keep([graph], read, choices)
    assert keep is residual_nodes
    assert largest < 1e3
    with pytest.raises(ExportError, match=r"decoder.onnx: /layers.*float16 ends at 65504"):
        choose_keep([graph], read, (None,))


def test_what_nothing_helps_against_is_refused(tmp_path: Path) -> None:
    graph = write(tmp_path, factor=1e5, part="up_proj")
    with pytest.raises(ExportError, match=r"/layers.0/.* reaches .* on sample inputs.*: export in fp32"):
        choose_keep([graph], read, (None, residual_nodes))


@pytest.mark.parametrize(("scale", "holds"), [(np.inf, False), (np.nan, False), (-np.inf, True), (2.0, True)])
def test_only_minus_infinity_is_left_out(tmp_path: Path, scale: float, holds: bool) -> None:
    """It is a mask; plus infinity and NaN are what the float32 graph could not hold itself."""
    model = parser.parse_model(
        '<ir_version: 9, opset_import: ["": 17]> one (float[n] x, float[n] by) => (float[n] y) { y = Mul(x, by) }'
    )
    onnx.save(model, tmp_path / "one.onnx")
    given = {
        "x": np.ones(3, dtype=np.float32),
        "by": np.array([1, scale, 1], dtype=np.float32),
    }

    def run(sessions: Sequence[Session]) -> object:
        return sessions[0].run(given)

    if holds:
        assert choose_keep([tmp_path / "one.onnx"], run, (None,)) == (None, 2.0 if scale == 2 else 1.0)
    else:
        with pytest.raises(ExportError, match="y reaches"):
            choose_keep([tmp_path / "one.onnx"], run, (None,))
