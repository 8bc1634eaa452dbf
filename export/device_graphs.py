"""Small graphs without weights that keep a generator's cache and its logits on the device.

- ``append.onnx`` writes the keys and values of new tokens into the cache's slots.
- ``keep.onnx`` takes rows of the cache: questions that are answered leave a batch.
- ``head.onnx`` marginalises: only the best tokens cross the bus, not 50,265 logits per passage and beam.

Names, shapes and types of the cache are read from the graph that steps, so they fit every kind and precision.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, ValueInfoProto, helper, parser

APPEND, KEEP, HEAD = "append.onnx", "keep.onnx", "head.onnx"
OPSET, IR_VERSION = 17, 9
_CACHE = ("past_keys_", "past_values_", "cross_keys_", "cross_values_")

# log p(y|x, z) = logit - log sum exp, then log sum over passages of p(z|x) p(y|x, z): Lewis et al. 2020, equation 2.
# A question has as many rows as its passages; where it has fewer than others, its priors end with minus infinity.
_HEAD = """
<ir_version: 9, opset_import: ["": 17]>
head (float[rows, beams, vocab] logits, int64[questions, docs] rows_of_question, float[questions, docs] priors,
      int64[one] k, int64[questions, beams, asked] asked_tokens)
  => (float[questions, beams, top] top_scores, int64[questions, beams, top] top_tokens,
      float[questions, docs, beams, top] top_by_doc, float[questions, beams, asked] asked_scores,
      float[questions, docs, beams, asked] asked_by_doc, float[questions, beams, vocab] scores)
{
    of_question = Gather <axis = 0> (logits, rows_of_question)
    largest = ReduceMax <axes = [3]> (of_question)
    finite = Max(largest, lowest)
    shifted = Sub(of_question, finite)
    weights = Exp(shifted)
    total = ReduceSum(weights, last)
    normaliser = Log(total)
    finite_normaliser = Max(normaliser, lowest)
    by_doc = Sub(shifted, finite_normaliser)
    priors_of_beams = Unsqueeze(priors, behind)
    joint = Add(by_doc, priors_of_beams)
    largest_joint = ReduceMax <axes = [1]> (joint)
    finite_joint = Max(largest_joint, lowest)
    shifted_joint = Sub(joint, finite_joint)
    joint_weights = Exp(shifted_joint)
    mixed = ReduceSum(joint_weights, second)
    mixed_log = Log(mixed)
    scores_of_one = Add(mixed_log, finite_joint)
    scores = Squeeze(scores_of_one, second)
    top_scores, top_tokens = TopK <axis = -1> (scores, k)
    asked_scores = GatherElements <axis = 2> (scores, asked_tokens)
    doc_count = Shape <start = 1, end = 2> (rows_of_question)
    across_docs = Concat <axis = 0> (first_one, doc_count, two_ones)
    top_of_one = Unsqueeze(top_tokens, second)
    top_of_docs = Expand(top_of_one, across_docs)
    top_by_doc = GatherElements <axis = 3> (by_doc, top_of_docs)
    asked_of_one = Unsqueeze(asked_tokens, second)
    asked_of_docs = Expand(asked_of_one, across_docs)
    asked_by_doc = GatherElements <axis = 3> (by_doc, asked_of_docs)
}
"""
_CONSTANTS = {"last": [3], "second": [1], "behind": [2, 3], "first_one": [1], "two_ones": [1, 1]}
# Where a token has no weight under any passage, or a passage gives weight to none: subtracted from minus infinity this
# leaves minus infinity.
_LOWEST = -3e38


def write_device_graphs(step: Path) -> None:
    """Write the three graphs beside the one that steps.

    Args:
        step: ``step.onnx`` or ``decoder.onnx``.
    """
    graph = onnx.load(step, load_external_data=False).graph
    cache = {v.name: v for v in graph.input if v.name.startswith(_CACHE)}
    new = {v.name: v for v in graph.output if v.name != "logits"}
    # An encoder-decoder's first layer has a row per question.
    by_question = any(v.name == "question_of_row" for v in graph.input)
    _write(append_graph(cache, new, by_question=by_question), step.with_name(APPEND))
    _write(keep_graph(cache, by_question=by_question), step.with_name(KEEP))
    _write(head_graph(), step.with_name(HEAD))


def append_graph(
    cache: dict[str, ValueInfoProto], new: dict[str, ValueInfoProto], *, by_question: bool
) -> onnx.ModelProto:
    """New keys and values into the slots that ``places`` names, int64 ``[rows, heads, queries, 3]``.

    Where the first layer has a row per question, ``question_places`` are its own.
    """
    past = {name: v for name, v in cache.items() if name.startswith("past_")}
    nodes, outputs = [], []
    inputs = [*past.values(), *new.values(), _integers("places", ["rows", "heads", "queries", 3])]
    if by_question:
        inputs.append(_integers("question_places", ["questions", "heads", "queries", 3]))
    constants = []
    for name, value in past.items():
        latest = name.replace("past_", "new_")
        layer = int(name.rsplit("_", 1)[1])
        if not by_question:
            constants.append(helper.make_tensor(f"layer_{name}", TensorProto.INT64, [], [layer]))
            constants.append(
                helper.make_tensor(f"which_{name}", TensorProto.INT64, [], [int("values" in name)])
            )
            nodes.append(helper.make_node("Gather", ["new_keys_values", f"layer_{name}"], [f"both_{name}"]))
            nodes.append(helper.make_node("Gather", [f"both_{name}", f"which_{name}"], [latest]))
        places = "question_places" if by_question and layer == 0 else "places"
        nodes.append(helper.make_node("ScatterND", [name, places, latest], [f"next_{name}"]))
        outputs.append(_renamed(value, f"next_{name}"))
    return _model("append", nodes, inputs, outputs, constants)


def keep_graph(cache: dict[str, ValueInfoProto], *, by_question: bool) -> onnx.ModelProto:
    """The cache's rows that ``rows`` names, int64 ``[kept]``; the first layer's past by ``questions``."""
    inputs = [*cache.values(), _integers("rows", ["kept_rows"])]
    if by_question:
        inputs.append(_integers("questions", ["kept_questions"]))
    nodes, outputs = [], []
    for name, value in cache.items():
        of_questions = by_question and name in ("past_keys_0", "past_values_0")
        chosen = "questions" if of_questions else "rows"
        nodes.append(helper.make_node("Gather", [name, chosen], [f"kept_{name}"], axis=0))
        output = _renamed(value, f"kept_{name}")
        output.type.tensor_type.shape.dim[0].dim_param = f"kept_{chosen}"
        outputs.append(output)
    return _model("keep", nodes, inputs, outputs, [])


def head_graph() -> onnx.ModelProto:
    """Marginalisation of the next token, its best tokens, and any that are asked for."""
    model = parser.parse_model(_HEAD)
    for name, values in _CONSTANTS.items():
        model.graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [len(values)], values))
    model.graph.initializer.append(helper.make_tensor("lowest", TensorProto.FLOAT, [], [_LOWEST]))
    return model


def _model(
    name: str,
    nodes: list[onnx.NodeProto],
    inputs: list[ValueInfoProto],
    outputs: list[ValueInfoProto],
    constants: list[TensorProto],
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, name, inputs, outputs, constants)
    return helper.make_model(graph, ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", OPSET)])


def _integers(name: str, shape: list[str | int]) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.INT64, shape)


def _renamed(value: ValueInfoProto, name: str) -> ValueInfoProto:
    copy = ValueInfoProto()
    copy.CopyFrom(value)
    copy.name = name
    return copy


def _write(model: onnx.ModelProto, path: Path) -> None:
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
