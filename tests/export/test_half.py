"""float16 graphs: what is float16 and what is not, and that they compute what the float32 graphs compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from rag_infer.errors import ExportError
from rag_infer.export import export_bundle
from rag_infer.export.graph_file import WeightFile
from rag_infer.export.half import halve_graph, pooling_nodes, residual_nodes
from tests.export.checkpoints import write_sentence_transformers
from tests.seq2seq_checkpoints import FAMILIES, write_seq2seq
from tests.tiny_llama import write_llama

HALF, SINGLE = "tensor(float16)", "tensor(float)"
# Of logits and vectors over their largest: a CPU rounds weights and caches only.
TOLERANCE = 5e-3
PRE_NORM = ("mbart", "pegasus", "t5", "flan-t5")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A decoder graph in float32, and in float16."""
    folder = tmp_path_factory.mktemp("llama")
    write_llama(folder / "c", initializer_range=0.1)
    source = export_bundle(folder / "b", generator=folder / "c").folder / "generator" / "decoder.onnx"
    halve_graph(source, folder / "decoder.onnx")
    return source, folder / "decoder.onnx"


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def types(path: Path) -> dict[str, str]:
    """Of inputs and outputs that are no integers."""
    loaded = session(path)
    border = {v.name: v.type for v in (*loaded.get_inputs(), *loaded.get_outputs())}
    return {name: kind for name, kind in border.items() if kind != "tensor(int64)"}


def read(path: Path, ids: list[list[int]], *, hidden: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Logits of a Llama graph after each token, and its keys and values; all see all but one token."""
    run = session(path)
    rows, width = len(ids), len(ids[0])
    bias = np.zeros((rows, width, width), dtype=np.float32)
    if hidden is not None:
        bias[:, :, hidden] = -np.inf
        bias[:, hidden, hidden] = 0
    positions = np.tile(np.arange(width), (rows, 1))
    inputs: dict[str, Any] = {
        "input_ids": np.array(ids),
        "position_ids": positions,
        "attention_bias": bias,
        "logit_positions": positions,
    }
    for value in run.get_inputs():
        if value.name.startswith("past_"):
            dtype = np.float16 if value.type == HALF else np.float32
            inputs[value.name] = np.zeros((rows, 2, 0, 8), dtype=dtype)
    logits, new = run.run(["logits", "new_keys_values"], inputs)
    return logits, new


def test_only_the_border_and_no_cache_is_converted_on_the_way(llama: tuple[Path, Path]) -> None:
    kinds = types(llama[1])
    assert {name for name, kind in kinds.items() if kind == SINGLE} == {"attention_bias", "logits"}
    assert set(kinds) == {
        "attention_bias",
        "logits",
        "new_keys_values",
        *(f"past_{w}_{i}" for w in ("keys", "values") for i in range(2)),
    }
    graph = onnx.load(llama[1], load_external_data=False).graph
    casts = [node for node in graph.node if node.op_type == "Cast"]
    first, last = casts
    assert first.input[0] == "attention_bias"
    assert last.output[0] == "logits"
    assert all(t.data_type != TensorProto.FLOAT for t in graph.initializer)


def test_weights_take_half_the_room(llama: tuple[Path, Path]) -> None:
    sizes = [path.with_name("decoder.onnx.data").stat().st_size for path in llama]
    assert sizes[1] <= 0.51 * sizes[0]


def test_logits_and_caches_are_close(llama: tuple[Path, Path]) -> None:
    ids = [[5, 9, 40, 41, 7], [60, 61, 62, 63, 64]]
    (expected, expected_new), (found, found_new) = (read(path, ids) for path in llama)
    assert (found.dtype, found_new.dtype) == (np.float32, np.float16)
    assert np.abs(found - expected).max() < TOLERANCE * np.abs(expected).max()
    assert np.abs(found_new - expected_new).max() < TOLERANCE * np.abs(expected_new).max()
    assert not np.array_equal(found, expected)


def test_minus_infinity_hides_a_token(llama: tuple[Path, Path]) -> None:
    shown = [read(llama[1], [[5, 9, token, 41, 7]])[0] for token in (40, 80)]
    hidden = [read(llama[1], [[5, 9, token, 41, 7]], hidden=2)[0] for token in (40, 80)]
    assert not np.array_equal(shown[0][:, 4], shown[1][:, 4])
    np.testing.assert_array_equal(hidden[0][:, [0, 1, 3, 4]], hidden[1][:, [0, 1, 3, 4]])
    assert np.isfinite(hidden[0]).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_encoder_decoders(tmp_path: Path, family: str) -> None:
    small = {"initializer_factor": 0.5} if "t5" in family else {"init_std": 0.1}
    write_seq2seq(tmp_path / "c", family, **small)
    source = export_bundle(tmp_path / "b", generator=tmp_path / "c").folder / "generator"
    file = WeightFile(tmp_path / "generator.data")
    for name in ("encoder.onnx", "step.onnx"):
        halve_graph(source / name, tmp_path / name, keep=residual_nodes, file=file)
        kinds = types(tmp_path / name)
        single = {"attention_bias", "cross_bias", "logits"} & set(kinds)
        assert {n for n, kind in kinds.items() if kind == SINGLE} == single
        assert len(single) == (1 if name == "encoder.onnx" else 3)
    assert (tmp_path / "generator.data").stat().st_size <= 0.51 * (source / "generator.data").stat().st_size
    inputs = {
        "input_ids": np.array([[6, 9, 12, 14, 2, 1]]),
        "attention_bias": np.array([[0, 0, 0, 0, 0, -np.inf]], dtype=np.float32),
    }
    expected = session(source / "encoder.onnx").run(None, inputs)
    found = session(tmp_path / "encoder.onnx").run(None, inputs)
    for one, other in zip(expected, found, strict=True):
        assert np.abs(one - other).max() < TOLERANCE * np.abs(one).max()


@pytest.mark.parametrize("family", PRE_NORM)
def test_sums_that_grow_stay_float32(tmp_path: Path, family: str) -> None:
    write_seq2seq(tmp_path / "c", family)
    source = export_bundle(tmp_path / "b", generator=tmp_path / "c").folder / "generator"
    for name in ("encoder.onnx", "step.onnx"):
        halve_graph(source / name, tmp_path / name, keep=residual_nodes)
        nodes = onnx.load(tmp_path / name, load_external_data=False).graph.node
        makers = {output: node.op_type for node in nodes for output in node.output}
        rounded = [
            node.input[0]
            for node in nodes
            if node.op_type == "Cast" and node.attribute[0].i == TensorProto.FLOAT16
        ]
        # What a norm gives is rounded, and the biases at the border; no sum and no product on the way.
        kinds = {makers.get(value, value) for value in rounded}
        assert kinds <= {"LayerNormalization", "SimplifiedLayerNormalization", "attention_bias", "cross_bias"}
        assert len(rounded) > 4
        feed_forward = [n for n in nodes if n.op_type == "MatMul" and "/feed_forward/output" in n.name]
        assert len(feed_forward) == 2
        for node in feed_forward:
            assert [makers[value] for value in node.input] == ["Cast", "Cast"]


def test_vectors_are_pooled_in_float32(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    write_sentence_transformers(tmp_path / "c")
    bundle = export_bundle(tmp_path / "b", question_encoder=tmp_path / "c")
    source = bundle.folder / "question_encoder" / "model.onnx"
    halve_graph(source, tmp_path / "model.onnx", keep=pooling_nodes)
    assert types(tmp_path / "model.onnx") == {"embedding": SINGLE}
    inputs = {
        "input_ids": np.array([[2, 9, 12, 14, 3], [2, 8, 3, 0, 0]]),
        "attention_mask": np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
    }
    expected, found = (session(p).run(None, inputs)[0] for p in (source, tmp_path / "model.onnx"))
    assert np.abs(found - expected).max() < TOLERANCE
    assert not np.array_equal(found, expected)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


def test_a_weight_that_float16_cannot_hold(tmp_path: Path) -> None:
    model = write_llama(tmp_path / "c")
    model.model.layers[1].mlp.down_proj.weight.data[0, 0] = 7e4
    model.save_pretrained(tmp_path / "c")
    source = export_bundle(tmp_path / "b", generator=tmp_path / "c").folder / "generator" / "decoder.onnx"
    with pytest.raises(ExportError, match=r"layers.1.down.weight reaches 7e\+04, above float16's 65504"):
        halve_graph(source, tmp_path / "decoder.onnx")


def test_a_small_weight_that_float16_cannot_hold(tmp_path: Path) -> None:
    """The converter itself would cut it to its range."""
    model = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["": 17]> one (float[2] x) => (float[2] y) '
        "<float[2] shift = {1.0, 70000.0}> { y = Add(x, shift) }"
    )
    onnx.save(model, tmp_path / "one.onnx")
    with pytest.raises(ExportError, match=r"shift reaches 7e\+04, above float16's 65504"):
        halve_graph(tmp_path / "one.onnx", tmp_path / "half.onnx")
