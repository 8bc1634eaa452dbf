"""A checkpoint of transformers' RAG classes: question encoder, generator, their tokenizers, and how they are used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers

from rag_infer.errors import ExportError
from rag_infer.export.checkpoint import (
    POSITION_IDS,
    UNUSED_POOLER,
    Checkpoint,
    find_checkpoint,
    load_complete,
    read_config,
)
from rag_infer.export.generation_settings import checked_settings, generation_settings
from rag_infer.export.seq2seq import FAMILIES, LoadedSeq2Seq, check_vocabulary
from rag_infer.export.text_encoder import EncoderOptions, LoadedEncoder, dpr_encoder
from rag_infer.export.tokenizer_file import load_tokenizer, unpadded
from rag_infer.parts import ComposingRule

# By class, the strategy it was trained for.
STRATEGIES = {
    "RagTokenForGeneration": "rag-token",
    "RagSequenceForGeneration": "rag-sequence",
    "RagModel": "rag-token",
}
QUESTION_TOKENIZER, GENERATOR_TOKENIZER = "question_encoder_tokenizer", "generator_tokenizer"


@dataclass(frozen=True, kw_only=True)
class LoadedRag:
    """A RAG checkpoint in PyTorch.

    Attributes:
        question_encoder, generator: its parts.
        n_docs: passages retrieved by default.
    """

    question_encoder: LoadedEncoder
    generator: LoadedSeq2Seq
    n_docs: int


def load_rag(source: str | Path) -> LoadedRag:
    """Load a RAG checkpoint, completely.

    Raises:
        ExportError: no such checkpoint, none of RAG's classes, parts that are not supported, missing or left-over
            weights, no tokenizers.
    """
    checkpoint = find_checkpoint(source)
    config = read_config(checkpoint)
    architecture = next(iter(config.architectures or ["RagModel"]))
    if config.model_type != "rag" or architecture not in STRATEGIES:
        raise ExportError(
            f"{checkpoint.name} has model_type {config.model_type!r} and architecture {architecture!r}: expected one "
            f"of {', '.join(STRATEGIES)}"
        )
    _check_parts(checkpoint, config)
    model, ignored = load_complete(
        getattr(transformers, architecture), checkpoint.source, harmless=(POSITION_IDS, UNUSED_POOLER)
    )
    body = model if architecture == "RagModel" else model.rag
    question_tokenizer = _tokenizer(checkpoint, QUESTION_TOKENIZER, config.question_encoder)
    generator_tokenizer = _tokenizer(checkpoint, GENERATOR_TOKENIZER, config.generator)
    check_vocabulary(f"{checkpoint.name}/{GENERATOR_TOKENIZER}", generator_tokenizer, body.generator)
    origin = checkpoint.describe()
    return LoadedRag(
        question_encoder=dpr_encoder(
            body.question_encoder, question_tokenizer, EncoderOptions(), ignored_keys=ignored, origin=origin
        ),
        generator=LoadedSeq2Seq(
            model=body.generator,
            tokenizer=generator_tokenizer,
            composing=_composing(config),
            settings=_settings(architecture, model, body, config),
            held=model.generation_config if architecture == "RagTokenForGeneration" else None,
            origin=origin,
        ),
        n_docs=config.n_docs,
    )


def _check_parts(checkpoint: Checkpoint, config: Any) -> None:
    encoder, generator = config.question_encoder.model_type, config.generator.model_type
    if encoder != "dpr" or generator not in FAMILIES:
        raise ExportError(
            f"{checkpoint.name} has a question encoder of type {encoder!r} and a generator of type {generator!r}: "
            f"supported are 'dpr' and {', '.join(FAMILIES)}"
        )


def _composing(config: Any) -> ComposingRule:
    positions = getattr(config.generator, "max_position_embeddings", None)
    return ComposingRule(
        prefix=config.generator.prefix or "",
        title_sep=config.title_sep,
        doc_sep=config.doc_sep,
        max_combined_length=min(config.max_combined_length, positions or config.max_combined_length),
        decoded_question=True,
    )


def _settings(architecture: str, model: Any, body: Any, config: Any) -> dict[str, Any]:
    """The generation settings each class takes: RAG-Sequence decodes with its generator's."""
    strategy = STRATEGIES[architecture]
    if strategy == "rag-token":
        held = model.generation_config if architecture != "RagModel" else body.generator.generation_config
        return {"strategy": strategy, **generation_settings(held)}
    found = generation_settings(body.generator.generation_config)
    found |= {"num_beams": config.num_beams, "num_return_sequences": config.num_return_sequences}
    return checked_settings({"strategy": strategy, "do_deduplication": config.do_deduplication, **found})


def _tokenizer(checkpoint: Checkpoint, name: str, config: Any) -> Any:
    """One of the two tokenizers, by its part's config where its folder does not say what it is."""
    if checkpoint.folder is None:
        return unpadded(load_tokenizer(checkpoint, subfolder=name, config=config).backend_tokenizer)
    folder = checkpoint.folder / name
    if not folder.is_dir():
        raise ExportError(f"{checkpoint.folder} has no folder {name}: save the RagTokenizer there too")
    return unpadded(load_tokenizer(Checkpoint(str(folder), folder), config=config).backend_tokenizer)
