"""Causal generators: a checkpoint to the decoder graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers

from rag_infer.errors import ExportError
from rag_infer.export.checkpoint import Checkpoint, find_checkpoint, load_complete, read_config
from rag_infer.export.device_graphs import APPEND, HEAD, KEEP
from rag_infer.export.families.llama import LlamaDecoder, check_config
from rag_infer.export.gguf_file import GgufFile
from rag_infer.export.graph_file import write_graph
from rag_infer.export.prompts import DEFAULT_PROMPT, GENERATION
from rag_infer.export.tokenizer_file import load_tokenizer, read_tokenizer_file, unpadded
from rag_infer.export.tracing import trace
from rag_infer.parts import CausalGeneratorPart, PromptTemplate

# As `rag_infer.export.tracing.trace` takes them.
AXES: Mapping[str, Mapping[int, str]] = {
    "input_ids": {0: "rows", 1: "queries"},
    "position_ids": {0: "rows", 1: "queries"},
    "attention_bias": {0: "rows", 1: "queries", 2: "slots_and_queries"},
    "logit_positions": {0: "rows", 1: "outputs"},
    "past_keys_{layer}": {0: "rows", 2: "slots"},
    "past_values_{layer}": {0: "rows", 2: "slots"},
    "logits": {0: "rows", 1: "outputs"},
    "new_keys_values": {2: "rows", 4: "queries"},
}
OUTPUTS = ("logits", "new_keys_values")


@dataclass(frozen=True, kw_only=True)
class LoadedGenerator:
    """A generator in PyTorch.

    Attributes:
        model: a `LlamaForCausalLM`.
        tokenizer: its tokenizer.
        bos_token_id: the token that begins every text, or None where texts begin without.
        eos_token_ids, pad_token_id: as in `CausalGeneratorPart`.
        origin: name and sha256 of the checkpoint.
    """

    model: Any
    tokenizer: tokenizers.Tokenizer
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    pad_token_id: int
    origin: dict[str, Any] = field(default_factory=dict)

    def generation(self) -> dict[str, Any]:
        """The bundle's generation settings; an answer may not begin with its end, as small models like it to."""
        stops = GENERATION["stop_strings"]
        texts = ((i, self.tokenizer.decode([i])) for i in range(self.tokenizer.get_vocab_size()))
        ends = {i for i, text in texts if any(s in text and not text.split(s)[0].strip() for s in stops)}
        first = sorted(i for i in {*ends, *self.eos_token_ids} if i < self.model.config.vocab_size)
        return {**GENERATION, "begin_suppress_tokens": first}

    def part(self, path: str, prompt: PromptTemplate | None) -> CausalGeneratorPart:
        """The generator's entry in the manifest."""
        config = self.model.config
        return CausalGeneratorPart(
            path=path,
            append_graph=APPEND,
            keep_graph=KEEP,
            head_graph=HEAD,
            vocab_size=config.vocab_size,
            num_layers=config.num_hidden_layers,
            num_kv_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            max_positions=config.max_position_embeddings,
            bos_token_id=self.bos_token_id,
            eos_token_ids=self.eos_token_ids,
            pad_token_id=self.pad_token_id,
            prompt=prompt or DEFAULT_PROMPT,
        )


def load_generator(source: str | Path) -> LoadedGenerator:
    """Load a Llama checkpoint, completely.

    Raises:
        ExportError: no such checkpoint, another architecture, missing or left-over weights, no tokenizer.
    """
    checkpoint = find_checkpoint(source)
    return _load_gguf(checkpoint) if checkpoint.gguf else _load_folder(checkpoint)


def write_decoder_graph(model: Any, path: Path) -> None:
    """Write ``path`` and ``path.data``.

    Args:
        model: a `LlamaForCausalLM`.
        path: where the graph goes.
    """
    decoder = LlamaDecoder(model).eval()
    names = input_names(model.config.num_hidden_layers)
    graph = trace(decoder, example_inputs(model.config), names, OUTPUTS, AXES)
    write_graph(graph, {name: value.numpy() for name, value in decoder.state_dict().items()}, path)


def input_names(num_layers: int) -> list[str]:
    """The graph's inputs, in order."""
    fixed = [n for n in AXES if "{layer}" not in n and n not in OUTPUTS]
    layered = [n for n in AXES if "{layer}" in n]
    return fixed + [n.format(layer=i) for i in range(num_layers) for n in layered]


def example_inputs(config: Any) -> tuple[torch.Tensor, ...]:
    """Inputs to trace with: sizes that differ from one another and from 1, so that none is taken for constant."""
    rows, queries, slots, outputs = 2, 3, 5, 2
    shape = (rows, config.num_key_value_heads, slots, config.head_dim)
    return (
        torch.zeros(rows, queries, dtype=torch.int64),
        torch.arange(slots, slots + queries).repeat(rows, 1),
        torch.zeros(rows, queries, slots + queries),
        torch.tensor([[0, 2]] * rows)[:, :outputs],
        *(torch.zeros(shape) for _ in range(2 * config.num_hidden_layers)),
    )


def _load_gguf(checkpoint: Checkpoint) -> LoadedGenerator:
    assert checkpoint.gguf is not None
    file = GgufFile(checkpoint.gguf)
    config = file.config()
    check_config(config)
    weights = file.weights(config)
    if config.tie_word_embeddings:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model, _ = load_complete(transformers.LlamaForCausalLM, None, config=config, state_dict=weights)
    beside = checkpoint.gguf.with_name("tokenizer.json")
    tokenizer = unpadded(read_tokenizer_file(beside)) if beside.exists() else file.tokenizer()
    return _loaded(checkpoint, model, tokenizer, file.bos_token_id(), file.eos_token_ids())


def _load_folder(checkpoint: Checkpoint) -> LoadedGenerator:
    config = read_config(checkpoint)
    architectures = list(config.architectures or [])
    if config.model_type != "llama" or architectures not in ([], ["LlamaForCausalLM"]):
        raise ExportError(
            f"{checkpoint.name} has model_type {config.model_type!r} and architectures {architectures}: the supported "
            "generators are of the Llama architecture (LlamaForCausalLM)"
        )
    check_config(config)
    model, _ = load_complete(transformers.LlamaForCausalLM, checkpoint.source)
    fast = load_tokenizer(checkpoint)
    tokenizer = unpadded(fast.backend_tokenizer)
    begun = tokenizer.encode("").ids[:1]
    bos = begun[0] if begun and begun[0] == fast.bos_token_id else None
    return _loaded(checkpoint, model, tokenizer, bos, _eos(model, fast))


def _eos(model: Any, tokenizer: Any) -> list[int]:
    """The first of generation config, config and tokenizer that names tokens to end with."""
    for holder in (model.generation_config, model.config, tokenizer):
        found = holder.eos_token_id
        if found is not None:
            return list(found) if isinstance(found, list | tuple) else [found]
    return []


def _loaded(
    checkpoint: Checkpoint, model: Any, tokenizer: tokenizers.Tokenizer, bos: int | None, eos: list[int]
) -> LoadedGenerator:
    if not eos:
        raise ExportError(
            f"{checkpoint.name} names no end-of-text token (eos_token_id): its answers would not end"
        )
    beyond = [i for i in eos if not 0 <= i < model.config.vocab_size]
    if beyond:
        raise ExportError(
            f"{checkpoint.name} ends texts with token {beyond[0]}, outside its vocabulary of {model.config.vocab_size}"
        )
    pad = model.config.pad_token_id
    return LoadedGenerator(
        model=model,
        tokenizer=tokenizer,
        bos_token_id=bos,
        eos_token_ids=tuple(eos),
        pad_token_id=eos[0] if pad is None or pad < 0 else pad,
        origin=checkpoint.describe(),
    )
