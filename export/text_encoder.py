"""Text encoders: sentence-transformers, BERT and DPR checkpoints to one graph, from token ids to vectors.

optimum exports the BERT body, loaded by its exact class; ONNX Runtime's optimizer fuses it; pooling, projection
and normalisation are then appended, so that nothing of them is left to the caller.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tokenizers
import transformers
from tokenizers import normalizers

from rag_infer.errors import ExportError
from rag_infer.export.checkpoint import (
    POSITION_IDS,
    TRAINING_HEAD,
    UNUSED_POOLER,
    Checkpoint,
    find_checkpoint,
    load_complete,
    read_config,
)
from rag_infer.export.sentence_transformers import is_sentence_transformers, read_layout
from rag_infer.export.text_tower import KINDS as TOWERS
from rag_infer.export.text_tower import TextTower, load_tower
from rag_infer.export.tokenizer_file import load_tokenizer, unpadded
from rag_infer.parts import EncoderPart

POOLINGS = ("mean", "cls", "pooler")
# What is taken where a plain BERT folder does not say and the caller neither: most such retrievers average.
DEFAULT_POOLING = "mean"

# What each side of DPR is called, and where its BERT lies in it.
DPR_ROLES = {"question": "DPRQuestionEncoder", "passage": "DPRContextEncoder"}
DPR_BODIES = {"DPRQuestionEncoder": "question_encoder", "DPRContextEncoder": "ctx_encoder"}


@dataclass(frozen=True, kw_only=True)
class EncoderOptions:
    """What a caller may say about a text encoder; None leaves it to the checkpoint.

    Attributes:
        pooling: "mean", "cls" or "pooler"; for plain BERT folders, which do not say (default "mean").
        similarity: "cosine" (vectors are normalised) or "dot".
        prefix: text put before every text.
    """

    pooling: str | None = None
    similarity: str | None = None
    prefix: str | None = None


@dataclass(frozen=True, kw_only=True)
class LoadedEncoder:
    """An encoder in PyTorch, and how its vectors come about.

    Attributes:
        model: the whole model as loaded; for DPR with its projection.
        body: the `BertModel` in it.
        projection: DPR's linear layer, or None.
        pooling, normalise, max_length, prefix: as in `EncoderPart`.
        similarity: "cosine" or "dot".
        tokenizer: without padding or truncation.
        ignored_keys: keys left over in the checkpoint, and why each is harmless.
        origin: name and sha256 of the checkpoint.
        tower: the whole way from ids to vectors, where it is no BERT but the text tower of CLIP or SigLIP.
    """

    model: Any
    body: Any
    projection: Any = None
    tower: TextTower | None = None
    pooling: str
    normalise: bool
    max_length: int
    prefix: str
    similarity: str
    tokenizer: tokenizers.Tokenizer
    ignored_keys: dict[str, str]
    origin: dict[str, Any] = field(default_factory=dict)

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        if self.tower is not None:
            return self.tower.dim
        return int(self.projection.out_features if self.projection else self.body.config.hidden_size)

    def part(self, path: str) -> EncoderPart:
        """The encoder's entry in the manifest."""
        return EncoderPart(
            path=path,
            dim=self.dim,
            pooling=self.pooling,
            normalise=self.normalise,
            max_length=self.max_length,
            prefix=self.prefix,
        )


def load_encoder(source: str | Path, role: str, options: EncoderOptions) -> LoadedEncoder:
    """Load a checkpoint by its exact class, completely.

    Args:
        source: folder or hub name.
        role: "question" or "passage"; which of a checkpoint's prompts to take.
        options: what the caller says.

    Raises:
        ExportError: no such checkpoint, an architecture or module that is not supported, missing or left-over
            keys, no tokenizer.
    """
    if options.pooling not in (None, *POOLINGS):
        raise ExportError(f"unknown pooling {options.pooling!r}: expected {', '.join(POOLINGS)}")
    if options.similarity not in (None, "cosine", "dot"):
        raise ExportError(f"unknown similarity {options.similarity!r}: expected cosine or dot")
    checkpoint = find_checkpoint(source)
    if checkpoint.gguf is not None:
        raise ExportError(
            f"{checkpoint.gguf} is a GGUF file: text encoders are read from safetensors folders"
        )
    if checkpoint.folder is not None and is_sentence_transformers(checkpoint.folder):
        return _load_sentence_transformers(checkpoint.folder, role, options)
    model_type = read_config(checkpoint).model_type
    if model_type in TOWERS:
        return _load_tower(checkpoint, model_type, options)
    architecture = _architecture(checkpoint)
    if architecture in DPR_BODIES:
        if architecture != DPR_ROLES[role]:
            raise ExportError(
                f"{checkpoint.name} is a {architecture}: a {role} encoder is a {DPR_ROLES[role]}"
            )
        return _load_dpr(checkpoint, architecture, options)
    return _load_bert(checkpoint, options)


def _load_sentence_transformers(folder: Path, role: str, options: EncoderOptions) -> LoadedEncoder:
    layout = read_layout(folder)
    checkpoint = find_checkpoint(layout.body)
    _architecture(checkpoint)
    similarity = options.similarity or layout.similarity or ("cosine" if layout.normalise else "dot")
    if similarity not in ("cosine", "dot"):
        raise ExportError(f"{folder} asks for the similarity {similarity!r}: supported are cosine and dot")
    if options.pooling not in (None, layout.pooling):
        raise ExportError(f"{folder} was trained with {layout.pooling} pooling, not {options.pooling}")
    model, ignored = _load_body(checkpoint, layout.pooling)
    tokenizer = unpadded(load_tokenizer(checkpoint).backend_tokenizer)
    if layout.lower_case:
        own = [tokenizer.normalizer] if tokenizer.normalizer is not None else []
        tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *own])
    return LoadedEncoder(
        model=model,
        body=model,
        pooling=layout.pooling,
        normalise=layout.normalise or similarity == "cosine",
        max_length=_max_length(model.config, layout.max_length),
        prefix=layout.prefix(role) if options.prefix is None else options.prefix,
        similarity=similarity,
        tokenizer=tokenizer,
        ignored_keys=ignored,
        origin=checkpoint.describe(),
    )


def _load_tower(checkpoint: Checkpoint, model_type: str, options: EncoderOptions) -> LoadedEncoder:
    """The text tower of a dual encoder, whose images and texts are compared by cosine."""
    if options.pooling is not None:
        raise ExportError(f"{checkpoint.name} is of type {model_type}: it has a pooling of its own")
    similarity = options.similarity or "cosine"
    tokenizer = load_tokenizer(checkpoint)
    tower, ignored = load_tower(checkpoint, model_type, tokenizer, normalise=similarity == "cosine")
    return LoadedEncoder(
        model=tower.model,
        body=tower.model,
        tower=tower,
        pooling=tower.pooling,
        normalise=similarity == "cosine",
        max_length=tower.max_length,
        prefix=options.prefix or "",
        similarity=similarity,
        tokenizer=unpadded(tokenizer.backend_tokenizer),
        ignored_keys=ignored,
        origin=checkpoint.describe(),
    )


def _load_bert(checkpoint: Checkpoint, options: EncoderOptions) -> LoadedEncoder:
    pooling = options.pooling or DEFAULT_POOLING
    model, ignored = _load_body(checkpoint, pooling)
    return _loaded(
        unpadded(load_tokenizer(checkpoint).backend_tokenizer),
        options,
        model=model,
        body=model,
        pooling=pooling,
        ignored_keys=ignored,
        origin=checkpoint.describe(),
    )


def _load_dpr(checkpoint: Checkpoint, architecture: str, options: EncoderOptions) -> LoadedEncoder:
    if options.pooling not in (None, "cls"):
        raise ExportError(f"{checkpoint.name} is a DPR encoder: its pooling is cls, not {options.pooling}")
    model, ignored = load_complete(
        getattr(transformers, architecture), checkpoint.source, harmless=(POSITION_IDS, UNUSED_POOLER)
    )
    tokenizer = unpadded(load_tokenizer(checkpoint).backend_tokenizer)
    return dpr_encoder(model, tokenizer, options, ignored_keys=ignored, origin=checkpoint.describe())


def dpr_encoder(
    model: Any,
    tokenizer: tokenizers.Tokenizer,
    options: EncoderOptions,
    *,
    ignored_keys: dict[str, str],
    origin: dict[str, Any],
) -> LoadedEncoder:
    """A DPR question or context encoder that is loaded."""
    encoder = getattr(model, DPR_BODIES[type(model).__name__])
    return _loaded(
        tokenizer,
        options,
        model=model,
        body=encoder.bert_model,
        projection=encoder.encode_proj if encoder.projection_dim > 0 else None,
        pooling="cls",
        ignored_keys=ignored_keys,
        origin=origin,
    )


def _loaded(
    tokenizer: tokenizers.Tokenizer, options: EncoderOptions, *, model: Any, **parts: Any
) -> LoadedEncoder:
    """An encoder whose checkpoint says nothing of similarity, prefix and length."""
    similarity = options.similarity or "dot"
    return LoadedEncoder(
        model=model,
        normalise=similarity == "cosine",
        max_length=_max_length(model.config, None),
        prefix=options.prefix or "",
        similarity=similarity,
        tokenizer=tokenizer,
        **parts,
    )


def _load_body(checkpoint: Checkpoint, pooling: str) -> tuple[Any, dict[str, str]]:
    harmless = [POSITION_IDS, TRAINING_HEAD]
    if pooling != "pooler":
        harmless.append(UNUSED_POOLER)
    return load_complete(
        transformers.BertModel, checkpoint.source, harmless=harmless, add_pooling_layer=pooling == "pooler"
    )


def _architecture(checkpoint: Checkpoint) -> str:
    """The class a checkpoint was saved from; only BERT's and DPR's are accepted."""
    config = read_config(checkpoint)
    architectures = list(config.architectures or [])
    if config.model_type == "bert":
        return architectures[0] if architectures else "BertModel"
    if config.model_type == "dpr" and len(architectures) == 1 and architectures[0] in DPR_BODIES:
        return str(architectures[0])
    raise ExportError(
        f"{checkpoint.name} has model_type {config.model_type!r} and architectures {architectures}: supported text "
        f"encoders are 'bert' (and sentence-transformers on it) and {', '.join(DPR_BODIES)}"
    )


def _max_length(config: Any, asked: int | None) -> int:
    return int(min(asked or 512, config.max_position_embeddings))
