"""Proof that a graph computes what PyTorch computes, on fixed inputs, and the pairs that let others check it later."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rag_infer.errors import ExportError
from rag_infer.export.causal import LoadedGenerator
from rag_infer.export.image_encoder import LoadedImageEncoder
from rag_infer.export.scenario import DecoderScenario, decoder_scenario, encoder_inputs, image_inputs
from rag_infer.export.text_encoder import LoadedEncoder
from rag_infer.parts import CausalGeneratorPart
from rag_infer.session import Session
from rag_infer.text import pad
from rag_infer.verify import CHECK_FILE, differences, replay, run_encoder, run_image_encoder, within

Float = NDArray[np.float32]

# The most that `rag_infer.verify.differences` may be. fp32: rounding alone (measured: 1e-6 and 1e-12). fp16: rounding
# to 11 bits (SmolLM2: 2e-3 and 5e-6 on a CPU, 6e-3 and 5e-5 in a simulation that rounds what each operator gives).
# int8: of the quantised graph against PyTorch; a wrong weight or a saturated sum gives far more.
LIMITS: Mapping[str, Mapping[str, float]] = {
    "fp32": {"max_difference": 1e-5, "cosine_difference": 1e-6},
    "fp16": {"max_difference": 0.02, "cosine_difference": 1e-3},
    "int8": {"max_difference": 0.3, "cosine_difference": 0.1},
}
# A quantised graph against its own outputs on another processor: rounding may fall to the other side.
REPEATED_INT8 = {"max_difference": 0.1, "cosine_difference": 0.005}

# Logits kept in the check file, evenly over the vocabulary.
STORED_COLUMNS = 2048


def check_encoder(encoder: LoadedEncoder, graph: Path, precision: str) -> dict[str, Any]:
    """Compare an encoder's graph with PyTorch and store its pairs beside it.

    Args:
        encoder: the original.
        graph: the exported graph.
        precision: "fp32", "fp16" or "int8".

    Returns:
        The report for the manifest.

    Raises:
        ExportError: the difference is above the limit.
    """
    inputs, expected, found = compare_encoder(encoder, graph)
    figures = demand(graph, differences(expected, found), precision)
    store(graph, {**inputs, "embedding": to_store(expected, found, precision)})
    return {
        **encoder.origin,
        "ignored_keys": encoder.ignored_keys,
        "inputs": {"texts": len(expected), "tokens": inputs["attention_mask"].sum(axis=1).tolist()},
        **report_figures(figures, precision),
    }


def compare_encoder(encoder: LoadedEncoder, graph: Path) -> tuple[dict[str, NDArray[np.int64]], Float, Float]:
    """(fixed inputs, PyTorch's vectors, the graph's vectors); the vectors float32 ``[texts, dim]``."""
    inputs = encoder_inputs(encoder.tokenizer, encoder.max_length)
    return inputs, encode_in_pytorch(encoder, inputs), run_encoder(Session(graph), inputs)


def encode_in_pytorch(encoder: LoadedEncoder, inputs: Mapping[str, NDArray[np.int64]]) -> Float:
    """Vectors as the original library computes them: float32 ``[texts, dim]``."""
    ids, mask = torch.from_numpy(inputs["input_ids"]), torch.from_numpy(inputs["attention_mask"])
    with torch.no_grad():
        if encoder.tower is not None:
            whole: Float = encoder.tower(ids, mask).numpy()
            return whole
        output = encoder.model(input_ids=ids, attention_mask=mask)
        if encoder.pooling == "pooler" or encoder.body is not encoder.model:
            vectors = output.pooler_output  # DPR calls its projected first token so
        elif encoder.pooling == "cls":
            vectors = output.last_hidden_state[:, 0]
        else:
            weights = mask[:, :, None].float()
            vectors = (output.last_hidden_state * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
        if encoder.normalise:
            vectors = torch.nn.functional.normalize(vectors, dim=-1)
    result: Float = vectors.numpy()
    return result


def check_image_encoder(encoder: LoadedImageEncoder, graph: Path, precision: str) -> dict[str, Any]:
    """Compare an image encoder's graph with PyTorch and store its pairs beside it.

    Raises:
        ExportError: the difference is above the limit.
    """
    pixels, expected, found = compare_image_encoder(encoder, graph)
    figures = demand(graph, differences(expected, found), precision)
    store(graph, {"pixel_values": pixels, "embedding": to_store(expected, found, precision)})
    return {
        **encoder.origin,
        "ignored_keys": encoder.ignored_keys,
        "inputs": {"images": len(pixels)},
        **report_figures(figures, precision),
    }


def compare_image_encoder(encoder: LoadedImageEncoder, graph: Path) -> tuple[Float, Float, Float]:
    """(prepared images, PyTorch's vectors, the graph's vectors); the vectors float32 ``[images, dim]``."""
    pixels = image_inputs(encoder.processing)
    with torch.no_grad():
        expected: Float = encoder.tower(torch.from_numpy(pixels)).numpy()
    return pixels, expected, run_image_encoder(Session(graph), {"pixel_values": pixels})


def check_generator(
    generator: LoadedGenerator, part: CausalGeneratorPart, graph: Path, precision: str
) -> dict[str, Any]:
    """Compare a decoder graph with transformers and store its pairs beside it.

    Raises:
        ExportError: the difference is above the limit.
    """
    scenario, expected, found = compare_generator(generator, part, graph)
    figures = demand(graph, differences(expected, found), precision)
    _store_calls(scenario, to_store(expected, found, precision), graph)
    return {
        **generator.origin,
        "inputs": {
            "rows": len(scenario.calls[0].input_ids),
            "calls": len(scenario.calls),
            "logits": len(found),
        },
        "same_best_token": float((found.argmax(1) == expected.argmax(1)).mean()),
        **report_figures(figures, precision),
    }


def compare_generator(
    generator: LoadedGenerator, part: CausalGeneratorPart, graph: Path
) -> tuple[DecoderScenario, Float, Float]:
    """(a chain of calls, transformers' logits, the graph's logits); the logits float32 ``[logits, vocab]``.

    The chain reads prompts of unequal length in two pieces, then steps with several beams whose parents cross.
    transformers computes each logit from the whole sequence, without a cache.
    """
    scenario = decoder_scenario(generator.tokenizer, part)
    found = _rows(replay(Session(graph), scenario.calls, part))
    return scenario, logits_in_pytorch(generator.model, scenario), found


def logits_in_pytorch(model: Any, scenario: DecoderScenario) -> Float:
    """The scenario's logits by transformers, each sequence a row from its beginning: float32 ``[logits, vocab]``."""
    ids, mask = pad(scenario.sequences, pad_id=0)
    last = torch.from_numpy(mask.sum(axis=1) - 1)
    with torch.no_grad():
        # The head of each row's last token alone: of all tokens it would be gigabytes for a large vocabulary.
        hidden = model.model(torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).last_hidden_state
        logits = model.lm_head(hidden[torch.arange(len(ids)), last])
    result: Float = logits.numpy()
    return result


def _rows(logits: list[Float]) -> Float:
    return np.concatenate([x.reshape(-1, x.shape[-1]) for x in logits])


def demand(graph: Path, figures: dict[str, float], precision: str) -> dict[str, float]:
    """The figures, if they are within the limits.

    Raises:
        ExportError: one is not.
    """
    if not within(figures, LIMITS[precision]):
        measured = ", ".join(f"{k} {v:.3g} (limit {LIMITS[precision][k]:g})" for k, v in figures.items())
        raise ExportError(f"{graph.parent.name}/{graph.name} differs from PyTorch in {precision}: {measured}")
    return figures


def report_figures(figures: dict[str, float], precision: str) -> dict[str, Any]:
    """For the manifest; ``limits`` are for the stored pairs: see `to_store`."""
    limits = REPEATED_INT8 if precision == "int8" else LIMITS[precision]
    return {
        "against_pytorch": figures,
        "limits_against_pytorch": dict(LIMITS[precision]),
        "limits": dict(limits),
    }


def to_store(expected: Float, found: Float, precision: str) -> Float:
    """Of PyTorch's outputs and the graph's those that `rag_infer.verify` compares with: PyTorch's, but for int8."""
    return found if precision == "int8" else expected


def _store_calls(scenario: DecoderScenario, logits: Float, graph: Path) -> None:
    stride = max(1, logits.shape[1] // STORED_COLUMNS)
    columns = np.arange(0, logits.shape[1], stride)
    arrays: dict[str, NDArray[Any]] = {"columns": columns}
    start = 0
    for i, call in enumerate(scenario.calls):
        outputs = call.logit_positions.size
        arrays[f"input_ids_{i}"] = call.input_ids
        arrays[f"position_ids_{i}"] = call.position_ids
        arrays[f"visible_{i}"] = call.visible
        arrays[f"logit_positions_{i}"] = call.logit_positions
        arrays[f"logits_{i}"] = logits[start : start + outputs, columns]
        start += outputs
    store(graph, arrays)


def store(graph: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """Keep arrays beside a graph, for `rag_infer.verify`."""
    np.savez_compressed(graph.with_name(CHECK_FILE), allow_pickle=False, **arrays)
