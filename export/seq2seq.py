"""Encoder-decoder generators: a checkpoint to the graphs ``encoder.onnx`` and ``step.onnx``.

Both read their weights from one file, ``generator.data``: an embedding that encoder, decoder and head share is stored
once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers

from rag_infer.errors import ExportError
from rag_infer.export.checkpoint import Checkpoint, load_complete, read_config
from rag_infer.export.device_graphs import APPEND, HEAD, KEEP
from rag_infer.export.families.bart import read_bart
from rag_infer.export.families.gpt2 import read_vision_encoder_decoder
from rag_infer.export.families.marian import read_marian
from rag_infer.export.families.mbart import read_mbart
from rag_infer.export.families.pegasus import read_pegasus
from rag_infer.export.families.t5 import read_t5
from rag_infer.export.generation_settings import generation_settings
from rag_infer.export.graph_file import WeightFile, write_graph
from rag_infer.export.seeing_graph import LoadedVision, write_seeing_encoder, write_vision_graph
from rag_infer.export.seq2seq_graph import DecoderGraph, EncoderGraph
from rag_infer.export.seq2seq_parts import Seq2SeqParts
from rag_infer.export.tokenizer_file import load_tokenizer, unpadded
from rag_infer.export.tracing import trace
from rag_infer.export.vision_text import MODEL_TYPE
from rag_infer.parts import ComposingRule, Seq2SeqGeneratorPart

ENCODER, STEP, WEIGHTS = "encoder.onnx", "step.onnx", "generator.data"

# By model_type: transformers' class, and how to read it.
FAMILIES: Mapping[str, tuple[str, Callable[[Any], Seq2SeqParts]]] = {
    "bart": ("BartForConditionalGeneration", read_bart),
    "mbart": ("MBartForConditionalGeneration", read_mbart),
    "t5": ("T5ForConditionalGeneration", read_t5),
    "pegasus": ("PegasusForConditionalGeneration", read_pegasus),
    "marian": ("MarianMTModel", read_marian),
}

READERS: Mapping[str, Callable[[Any], Seq2SeqParts]] = {
    **{model_type: read for model_type, (_, read) in FAMILIES.items()},
    "vision-encoder-decoder": read_vision_encoder_decoder,
    MODEL_TYPE: lambda model: read_bart(model.text),
}

# As `rag_infer.export.tracing.trace` takes them. "questions" are rows of the first layer's self-attention, "rows"
# those of everything after it: one per context.
ENCODER_AXES: Mapping[str, Mapping[int, str]] = {
    "input_ids": {0: "rows", 1: "tokens"},
    "attention_bias": {0: "rows", 1: "tokens"},
    "cross_keys_{layer}": {0: "rows", 3: "tokens"},
    "cross_values_{layer}": {0: "rows", 2: "tokens"},
}
STEP_AXES: Mapping[str, Mapping[int, str]] = {
    "input_ids": {0: "questions", 1: "queries"},
    "position_ids": {0: "questions", 1: "queries"},
    "slot_positions": {0: "questions", 1: "slots_and_queries"},
    "attention_bias": {0: "questions", 1: "queries", 2: "slots_and_queries"},
    "cross_bias": {0: "rows", 1: "tokens"},
    "question_of_row": {0: "rows"},
    "past_keys_{layer}": {0: "questions_or_rows", 2: "slots"},
    "past_values_{layer}": {0: "questions_or_rows", 2: "slots"},
    "cross_keys_{layer}": {0: "rows", 3: "tokens"},
    "cross_values_{layer}": {0: "rows", 2: "tokens"},
    "logits": {0: "rows", 1: "queries"},
    "new_keys_{layer}": {0: "questions_or_rows", 2: "queries"},
    "new_values_{layer}": {0: "questions_or_rows", 2: "queries"},
}


@dataclass(frozen=True, kw_only=True)
class LoadedSeq2Seq:
    """An encoder-decoder in PyTorch.

    Attributes:
        model: of one of the `FAMILIES`, or one that sees.
        tokenizer: its tokenizer, without padding or truncation.
        composing: how its contexts are put together.
        settings: the bundle's generation settings.
        held: transformers' generation settings that name its special tokens, where they are not the model's own.
        origin: name and sha256 of the checkpoint.
        vision: what it sees with, or None for a generator of text alone.
    """

    model: Any
    tokenizer: tokenizers.Tokenizer
    composing: ComposingRule
    settings: dict[str, Any]
    held: Any = None
    origin: dict[str, Any] = field(default_factory=dict)
    vision: LoadedVision | None = None

    def generation(self) -> dict[str, Any]:
        """The bundle's generation settings."""
        return self.settings

    def part(self, path: str) -> Seq2SeqGeneratorPart:
        """The generator's entry in the manifest."""
        parts = read_parts(self.model)
        attention = parts.decoder.layers[0].attention
        eos, bos = self._token("eos_token_id"), self._token("bos_token_id")
        start, pad = self._token("decoder_start_token_id"), self._token("pad_token_id")
        start = bos if start is None else start  # as transformers does
        for name, value in (("decoder_start_token_id", start), ("eos_token_id", eos), ("pad_token_id", pad)):
            if value is None:
                raise ExportError(f"{self.origin.get('checkpoint')} names no {name}: set it in its config")
        return Seq2SeqGeneratorPart(
            path=path,
            encoder_graph=ENCODER,
            step_graph=STEP,
            append_graph=APPEND,
            keep_graph=KEEP,
            head_graph=HEAD,
            vocab_size=len(parts.head),
            num_layers=len(parts.decoder.layers),
            num_heads=parts.decoder.num_heads,
            head_dim=attention.query.out_features // parts.decoder.num_heads,
            max_positions=parts.max_positions,
            decoder_start_token_id=start,
            bos_token_id=bos,
            eos_token_ids=tuple(eos) if isinstance(eos, list | tuple) else (eos,),
            pad_token_id=pad,
            composing=self.composing,
            vision=None if self.vision is None else self.vision.part,
        )

    def _token(self, name: str) -> Any:
        """A special token by the generation settings, else by the config."""
        found = getattr(self.held or self.model.generation_config, name, None)
        return getattr(self.model.config, name, None) if found is None else found


def load_seq2seq(checkpoint: Checkpoint) -> LoadedSeq2Seq:
    """Load an encoder-decoder checkpoint, completely.

    Raises:
        ExportError: another architecture, missing or left-over weights, no tokenizer.
    """
    config = read_config(checkpoint)
    # Whatever class it was saved from: one with another head has weights left over, or too few.
    architecture, _ = FAMILIES[config.model_type]
    model, _ = load_complete(getattr(transformers, architecture), checkpoint.source)
    tokenizer = unpadded(load_tokenizer(checkpoint).backend_tokenizer)
    positions = getattr(config, "max_position_embeddings", None)
    rule = ComposingRule(prefix=getattr(config, "prefix", None) or "")
    if positions is not None:
        rule = replace(rule, max_combined_length=min(rule.max_combined_length, positions))
    loaded = LoadedSeq2Seq(
        model=model,
        tokenizer=tokenizer,
        composing=rule,
        settings=generation_settings(model.generation_config),
        origin=checkpoint.describe(),
    )
    check_vocabulary(checkpoint.name, tokenizer, model)
    return loaded


def check_vocabulary(name: str, tokenizer: tokenizers.Tokenizer, model: Any) -> None:
    """Refuse a tokenizer that has tokens the model has not.

    Raises:
        ExportError: it has; the message gives both numbers.
    """
    tokens = max(tokenizer.get_vocab().values(), default=-1) + 1
    if tokens > model.config.vocab_size:
        raise ExportError(
            f"the tokenizer of {name} has {tokens} tokens, the model a vocabulary of {model.config.vocab_size}"
        )


def read_parts(model: Any) -> Seq2SeqParts:
    """The parts of a model of one of the `READERS`."""
    return READERS[model.config.model_type](model)


def graph_names(part: Seq2SeqGeneratorPart) -> tuple[str, ...]:
    """The graphs that hold weights."""
    vision = () if part.vision is None else (part.vision.graph,)
    return (part.encoder_graph, part.step_graph, *vision)


def write_seq2seq_graphs(parts: Seq2SeqParts, folder: Path, vision: LoadedVision | None = None) -> None:
    """Write ``encoder.onnx``, ``step.onnx``, ``vision.onnx`` of a generator that sees, and the weights of all."""
    file = WeightFile(folder / WEIGHTS)
    layers = range(len(parts.decoder.layers))
    cross = [f"cross_{what}_{i}" for i in layers for what in ("keys", "values")]
    if vision is None:
        encoder, (rows, tokens) = EncoderGraph(parts).eval(), (4, 7)
        inputs = (torch.zeros(rows, tokens, dtype=torch.int64), torch.zeros(rows, tokens))
        graph = trace(encoder, inputs, ["input_ids", "attention_bias"], cross, ENCODER_AXES)
        write_graph(graph, _weights(encoder), folder / ENCODER, file=file)
    else:
        write_vision_graph(vision, folder / vision.part.graph, file)
        write_seeing_encoder(parts, vision, cross, folder / ENCODER, file)
    decoder = DecoderGraph(parts).eval()
    fixed = list(STEP_AXES)[:6]
    cache = [
        f"{what}_{i}" for i in layers for what in ("past_keys", "past_values", "cross_keys", "cross_values")
    ]
    new = [f"new_{what}_{i}" for i in layers for what in ("keys", "values")]
    graph = trace(decoder, _step_inputs(parts), [*fixed, *cache], ["logits", *new], STEP_AXES)
    write_graph(graph, _weights(decoder), folder / STEP, file=file)


def _step_inputs(parts: Seq2SeqParts) -> list[torch.Tensor]:
    questions, rows, queries, slots, tokens = 2, 4, 3, 5, 7
    heads = parts.decoder.num_heads
    cross = parts.decoder.layers[0].attention
    head_dim = cross.query.out_features // heads
    inputs = [
        torch.zeros(questions, queries, dtype=torch.int64),
        torch.zeros(questions, queries, dtype=torch.int64),
        torch.zeros(questions, slots + queries, dtype=torch.int64),
        torch.zeros(questions, queries, slots + queries),
        torch.zeros(rows, tokens),
        torch.arange(rows) // 2,
    ]
    for i in range(len(parts.decoder.layers)):
        past = (questions if i == 0 else rows, heads, slots, head_dim)
        inputs += [torch.zeros(past), torch.zeros(past)]
        inputs += [torch.zeros(rows, heads, head_dim, tokens), torch.zeros(rows, heads, tokens, head_dim)]
    return inputs


def _weights(module: torch.nn.Module) -> dict[str, Any]:
    return {name: value.numpy() for name, value in module.state_dict().items()}
