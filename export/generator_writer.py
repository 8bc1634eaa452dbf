"""A generator to its folder in a bundle: graphs, tokenizer, stored pairs; returns the report for the manifest."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rag_infer.errors import ExportError
from rag_infer.export.agreement import check_greedy, compare_precisions, sample_prompts
from rag_infer.export.causal import LoadedGenerator, load_generator, write_decoder_graph
from rag_infer.export.checkpoint import find_checkpoint, read_config
from rag_infer.export.device_graphs import write_device_graphs
from rag_infer.export.graph_file import WeightFile
from rag_infer.export.half_writer import halve_causal, halve_seq2seq
from rag_infer.export.parity import check_generator
from rag_infer.export.quantise import quantise_graph
from rag_infer.export.seeing import SEEING, load_seeing
from rag_infer.export.seq2seq import (
    FAMILIES,
    WEIGHTS,
    LoadedSeq2Seq,
    graph_names,
    load_seq2seq,
    read_parts,
    write_seq2seq_graphs,
)
from rag_infer.export.seq2seq_parity import check_seq2seq
from rag_infer.export.seq2seq_parity import compare_precisions as compare_seq2seq_precisions
from rag_infer.export.smoothing import smooth
from rag_infer.parts import CausalGeneratorPart, GeneratorPart, Seq2SeqGeneratorPart

Loaded = LoadedGenerator | LoadedSeq2Seq
Tell = Callable[[str], None]

SMOOTHED = "smoothed.onnx"


def load_any_generator(source: str | Path) -> Loaded:
    """Load a decoder-only or an encoder-decoder checkpoint, which may see, completely.

    Raises:
        ExportError: no such checkpoint, an architecture that is not supported, missing or left-over weights, no
            tokenizer.
    """
    checkpoint = find_checkpoint(source)
    if checkpoint.gguf is None:
        model_type = read_config(checkpoint).model_type
        if model_type in FAMILIES:
            return load_seq2seq(checkpoint)
        if model_type in SEEING:
            return load_seeing(checkpoint)
    return load_generator(source)


def write_generator(
    loaded: Loaded, part: GeneratorPart, folder: Path, precision: str, tell: Tell
) -> dict[str, Any]:
    """Write a generator's files and compare them with PyTorch.

    Args:
        loaded: the generator.
        part: its entry in the manifest.
        folder: where the files go.
        precision: "fp32", "fp16" or "int8".
        tell: is given a line of text as each step begins.

    Raises:
        ExportError: a graph differs from PyTorch by more than the limit.
    """
    loaded.tokenizer.save(str(folder / "tokenizer.json"))
    tell("writing the generator's graphs")
    if isinstance(loaded, LoadedSeq2Seq) and isinstance(part, Seq2SeqGeneratorPart):
        report, step = _write_seq2seq(loaded, part, folder, precision, tell), part.step_graph
    else:
        assert isinstance(loaded, LoadedGenerator) and isinstance(part, CausalGeneratorPart)  # noqa: PT018
        report, step = _write_causal(loaded, part, folder, precision, tell), part.graph
    write_device_graphs(folder / step)
    return report


def _write_causal(
    loaded: LoadedGenerator, part: CausalGeneratorPart, folder: Path, precision: str, tell: Tell
) -> dict[str, Any]:
    graph = folder / part.graph
    figures: dict[str, Any] = {}
    if precision == "fp32":
        write_decoder_graph(loaded.model, graph)
        figures["greedy_tokens_of_transformers"] = check_greedy(loaded, part, graph)
    else:
        with _reference(folder) as reference:
            write_decoder_graph(loaded.model, reference / part.graph)
            tell(f"converting the generator to {precision}")
            if precision == "fp16":
                figures = halve_causal(part, reference / part.graph, graph)
            else:
                _quantise_causal(loaded, part, reference, graph)
            tell("comparing the generator's tokens with fp32")
            figures["agreement_with_fp32"] = compare_precisions(reference / part.graph, graph, part)
    tell("comparing the generator with PyTorch")
    return {**check_generator(loaded, part, graph, precision), **figures}


def _quantise_causal(
    loaded: LoadedGenerator, part: CausalGeneratorPart, reference: Path, graph: Path
) -> None:
    preamble, prompts = sample_prompts(graph.with_name("tokenizer.json"), part)
    write_decoder_graph(smooth(loaded.model, [[*preamble, *p] for p in prompts]), reference / SMOOTHED)
    # The first token's activations are up to a thousand times any other's ("massive activations", Sun et al. 2024):
    # with one scale for all, the others would be rounded away.
    quantise_graph(reference / SMOOTHED, graph, by_token=True)


def _write_seq2seq(
    loaded: LoadedSeq2Seq, part: Seq2SeqGeneratorPart, folder: Path, precision: str, tell: Tell
) -> dict[str, Any]:
    parts = read_parts(loaded.model)
    figures: dict[str, Any] = {}
    if precision == "fp32":
        write_seq2seq_graphs(parts, folder, loaded.vision)
    else:
        with _reference(folder) as reference:
            write_seq2seq_graphs(parts, reference, loaded.vision)
            tell(f"converting the generator to {precision}")
            if precision == "fp16":
                # A vision model is taken for one whose norms come first, as ViT's do.
                pre_norm = parts.decoder.pre_norm or part.vision is not None
                figures = halve_seq2seq(part, reference, folder, pre_norm=pre_norm)
            else:
                file = WeightFile(folder / WEIGHTS)
                for name in graph_names(part):
                    quantise_graph(reference / name, folder / name, file=file)
            tell("comparing the generator's tokens with fp32")
            figures["agreement_with_fp32"] = compare_seq2seq_precisions(reference, folder, part)
    tell("comparing the generator with PyTorch")
    return {**check_seq2seq(loaded, part, folder, precision), **figures}


@contextlib.contextmanager
def _reference(folder: Path) -> Iterator[Path]:
    """Where the fp32 twins of graphs of another precision lie while both are needed."""
    path = folder / "fp32"
    path.mkdir()
    yield path
    shutil.rmtree(path)


def check_room(loaded: Loaded, part: GeneratorPart, *, question: int, answer: int) -> None:
    """Refuse a prompt that leaves the model no positions for a question and its answer.

    Args:
        loaded: the generator.
        part: its entry in the manifest.
        question, answer: tokens that each must be able to have.

    Raises:
        ExportError: it does; the message gives the numbers.
    """
    if not isinstance(part, CausalGeneratorPart):
        return
    around = sum(len(loaded.tokenizer.encode(t).ids) for t in (part.prompt.preamble, part.prompt.question))
    taken = around + part.prompt.max_passage_tokens + question + answer
    if taken > part.max_positions:
        raise ExportError(
            f"the generator has {part.max_positions} positions, but the prompt with a passage takes {taken}: "
            "give a shorter prompt, or one with fewer max_passage_tokens"
        )
