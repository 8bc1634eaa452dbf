"""A bundle with a small but complete text encoder: an embedding per word, summed where the mask says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import tokenizers
from onnx import TensorProto, helper, numpy_helper
from tokenizers import models, pre_tokenizers

from rag_infer.bundle import MANIFEST, Manifest, record_files
from rag_infer.parts import EncoderPart

DIM = 24
WORDS = [
    "the",
    "a",
    "of",
    "cat",
    "dog",
    "mat",
    "sea",
    "sky",
    "river",
    "red",
    "green",
    "blue",
    "sat",
    "on",
    "runs",
    "deep",
    "batch",
    "item",
    "one",
    "two",
    "three",
    "four",
]


def make_tiny_bundle(folder: Path, *, seed: int = 0) -> Path:
    """Write the bundle; another seed gives another encoder."""
    part = EncoderPart(path="encoder", dim=DIM, pooling="mean", normalise=False, max_length=32)
    (folder / part.path).mkdir(parents=True)
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    tokenizer = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / part.path / "tokenizer.json"))
    table = np.random.default_rng(seed).standard_normal((len(vocabulary), DIM)).astype(np.float32)
    onnx.save(_graph(table), folder / part.path / part.graph)
    manifest = Manifest(
        created_by="tests",
        precision="fp32",
        question_encoder=part,
        passage_encoder=part,
        files=record_files(folder),
    )
    (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return folder


def _graph(table: np.ndarray) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["words"]),
        helper.make_node("Cast", ["attention_mask"], ["weights"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["weights", "last"], ["column"]),
        helper.make_node("Mul", ["words", "column"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "middle"], ["embedding"], keepdims=0),
    ]
    tokens = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["texts", "tokens"])
        for name in ("input_ids", "attention_mask")
    ]
    embedding = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["texts", DIM])
    constants = {"table": table, "last": np.array([2]), "middle": np.array([1])}
    initialisers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "sum_of_words", tokens, [embedding], initialisers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
