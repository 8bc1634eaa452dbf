"""A part's float32 graphs to float16, as much of each as the part needs; returns what the report says of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rag_infer.export.agreement import GENERATE_PROMPTS, sample_prompts
from rag_infer.export.graph_file import WeightFile
from rag_infer.export.half import Keep, halve_graph, pooling_nodes, residual_nodes
from rag_infer.export.half_range import choose_keep
from rag_infer.export.image_encoder import LoadedImageEncoder
from rag_infer.export.sample_questions import SAMPLES
from rag_infer.export.scenario import encoder_inputs, image_inputs
from rag_infer.export.seq2seq import WEIGHTS, graph_names
from rag_infer.export.seq2seq_parity import sample_chain
from rag_infer.export.text_encoder import LoadedEncoder
from rag_infer.generate.causal import CausalDecoder
from rag_infer.parts import CausalGeneratorPart, Seq2SeqGeneratorPart
from rag_infer.session import Session
from rag_infer.verify import run_encoder, run_image_encoder


def halve_encoder(encoder: LoadedEncoder, source: Path, target: Path) -> dict[str, Any]:
    """Convert a text encoder's graph.

    Args:
        encoder: the original.
        source: the float32 graph.
        target: where the converted one goes.

    Raises:
        ExportError: float16 cannot hold what it computes on the texts of the parity check.
    """
    inputs = encoder_inputs(encoder.tokenizer, encoder.max_length)
    keep, largest = choose_keep([source], lambda s: run_encoder(s[0], inputs), (pooling_nodes,))
    halve_graph(source, target, keep=keep)
    return {"float16": {"largest_value": largest}}


def halve_image_encoder(encoder: LoadedImageEncoder, source: Path, target: Path) -> dict[str, Any]:
    """Convert an image encoder's graph; arguments and errors as `halve_encoder`."""
    inputs = {"pixel_values": image_inputs(encoder.processing)}
    keep, largest = choose_keep([source], lambda s: run_image_encoder(s[0], inputs), (pooling_nodes,))
    halve_graph(source, target, keep=keep)
    return {"float16": {"largest_value": largest}}


def halve_causal(part: CausalGeneratorPart, source: Path, target: Path) -> dict[str, Any]:
    """Convert a decoder-only generator's graph; its sums stay float32 only where float16 is too small for them.

    Raises:
        ExportError: float16 cannot hold what it computes on sample prompts.
    """
    preamble, prompts = sample_prompts(target.with_name("tokenizer.json"), part)

    def run(sessions: Sequence[Session]) -> None:
        decoder = CausalDecoder(sessions[0], part)
        for prompt in prompts[:GENERATE_PROMPTS]:
            decoder.prefill(preamble, [[prompt]], reserve=0)

    keep, largest = choose_keep([source], run, (None, residual_nodes))
    halve_graph(source, target, keep=keep)
    return _figures(keep, largest)


def halve_seq2seq(
    part: Seq2SeqGeneratorPart, source: Path, target: Path, *, pre_norm: bool
) -> dict[str, Any]:
    """Convert an encoder-decoder's graphs, from folder to folder.

    Args:
        part: its entry in the manifest.
        source: the folder of the float32 graphs.
        target: the folder of the converted ones, which has ``tokenizer.json``.
        pre_norm: whether norms come before the layers' parts, in any of its stacks. The sums are then never
            normalised, grow from layer to layer, and stay float32 whatever the samples show.

    Raises:
        ExportError: float16 cannot hold what they compute on sample contexts.
    """
    chain = sample_chain(target, part, questions=len(SAMPLES), passages=1)
    names = graph_names(part)

    def run(sessions: Sequence[Session]) -> None:
        chain.run(dict(zip(names, sessions, strict=True)).__getitem__, part)

    choices = (residual_nodes,) if pre_norm else (None, residual_nodes)
    keep, largest = choose_keep([source / name for name in names], run, choices)
    file = WeightFile(target / WEIGHTS)
    for name in names:
        halve_graph(source / name, target / name, keep=keep, file=file)
    return _figures(keep, largest)


def _figures(keep: Keep | None, largest: float) -> dict[str, Any]:
    return {"float16": {"largest_value": largest, "float32_sums": keep is not None}}
