"""The parity report again: a bundle's graphs against the checkpoints they were made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rag_infer.bundle import Bundle, Part
from rag_infer.errors import ExportError
from rag_infer.export.causal import LoadedGenerator
from rag_infer.export.checkpoint import find_checkpoint, read_config
from rag_infer.export.generator_writer import Loaded, load_any_generator
from rag_infer.export.image_encoder import POOLINGS, load_image_encoder
from rag_infer.export.parity import compare_encoder, compare_generator, compare_image_encoder
from rag_infer.export.rag import load_rag
from rag_infer.export.seq2seq_parity import compare_seq2seq
from rag_infer.export.text_encoder import POOLINGS as TEXT_POOLINGS
from rag_infer.export.text_encoder import EncoderOptions, LoadedEncoder, load_encoder
from rag_infer.parts import CausalGeneratorPart, EncoderPart, ImageEncoderPart, Seq2SeqGeneratorPart
from rag_infer.verify import Check, check_files, check_part, differences, distinct_parts, within


def reverify_bundle(
    folder: str | Path,
    *,
    rag: str | Path | None = None,
    question_encoder: str | Path | None = None,
    passage_encoder: str | Path | None = None,
    text_encoder: str | Path | None = None,
    image_encoder: str | Path | None = None,
    generator: str | Path | None = None,
) -> list[Check]:
    """Compare a bundle's graphs with PyTorch, as its export did.

    Args:
        folder: the bundle.
        rag: the RAG checkpoint that question encoder and generator were made from.
        text_encoder: in place of both of the next two.
        question_encoder, passage_encoder, image_encoder, generator: the checkpoints; default: where the export found
            them. A part whose checkpoint is no longer there is compared with the outputs stored then.

    Raises:
        BundleError: a file of the bundle is missing or altered.
        ExportError: a checkpoint that was named is not there, or not the one the part was made from.
    """
    if text_encoder is not None and (question_encoder is not None or passage_encoder is not None):
        raise ExportError("a text encoder stands for question and passage encoder: name it, or those")
    bundle = Bundle.load(folder)
    named = {
        "question_encoder": question_encoder or text_encoder or rag,
        "passage_encoder": passage_encoder or text_encoder,
        "image_encoder": image_encoder,
        "generator": generator or rag,
    }
    for name, source in named.items():
        if source is not None:
            _check_is_origin(bundle, name, source)
    checks = [check_files(bundle)]
    for name, part in distinct_parts(bundle.manifest):
        report = bundle.manifest.parity.get(name, {})
        source = named[name] or _still_there(report)
        if source is None:
            checks.append(check_part(bundle, name, part))
        else:
            checks.append(_compare(bundle, name, part, source, report))
    return checks


def _still_there(report: dict[str, Any]) -> str | None:
    """The checkpoint of the report, if it is a folder or file of this machine with the same weights."""
    source = report.get("source")
    if not source or not Path(source).exists():
        return None
    try:
        return source if _weights(source) == report.get("weights_sha256") else None
    except ExportError:  # what stands there is no checkpoint any more
        return None


def _check_is_origin(bundle: Bundle, name: str, source: str | Path) -> None:
    """Refuse a checkpoint that is named for a part the bundle lacks, or that the part was not made from."""
    if getattr(bundle.manifest, name) is None:
        raise ExportError(f"{bundle.folder} has no {name}, but its checkpoint {source} is named")
    recorded, found = bundle.manifest.parity.get(name, {}).get("weights_sha256"), _weights(source)
    if None not in (recorded, found) and found != recorded:
        raise ExportError(
            f"{source} is not what {name} was made from: its weights have sha256 {found}, not {recorded}"
        )


def _weights(source: str | Path) -> str | None:
    from rag_infer.export.sentence_transformers import is_sentence_transformers, read_layout

    checkpoint = find_checkpoint(source)
    if checkpoint.folder is not None and is_sentence_transformers(checkpoint.folder):
        checkpoint = find_checkpoint(read_layout(checkpoint.folder).body)
    return checkpoint.weights_sha256()


def _compare(bundle: Bundle, name: str, part: Part, source: str | Path, report: dict[str, Any]) -> Check:
    if isinstance(part, EncoderPart):
        encoder = _load_encoder(bundle, name, part, source)
        _, expected, got = compare_encoder(encoder, bundle.file(part, part.graph))
    elif isinstance(part, ImageEncoderPart):
        pooling = part.pooling if part.pooling in POOLINGS else None
        tower = load_image_encoder(source, pooling=pooling, normalise=part.normalise)
        _, expected, got = compare_image_encoder(tower, bundle.file(part, part.graph))
    else:
        loaded = _load_generator(source)
        if isinstance(part, CausalGeneratorPart) and isinstance(loaded, LoadedGenerator):
            _, expected, got = compare_generator(loaded, part, bundle.file(part, part.graph))
        elif isinstance(part, Seq2SeqGeneratorPart) and not isinstance(loaded, LoadedGenerator):
            _, expected, got = compare_seq2seq(loaded, part, bundle.folder / part.path)
        else:
            raise ExportError(f"{source} is another kind of generator than {name}, which is {part.kind!r}")
    figures = differences(expected, got)
    limits = dict(report["limits_against_pytorch"])
    return Check(name=name, against="PyTorch", passed=within(figures, limits), figures=figures, limits=limits)


def _is_rag(source: str | Path) -> bool:
    checkpoint = find_checkpoint(source)
    if checkpoint.folder is not None and not (checkpoint.folder / "config.json").exists():
        return False
    return bool(read_config(checkpoint).model_type == "rag")


def _load_encoder(bundle: Bundle, name: str, part: EncoderPart, source: str | Path) -> LoadedEncoder:
    if _is_rag(source):
        return load_rag(source).question_encoder
    pooling = part.pooling if part.pooling in TEXT_POOLINGS else None
    options = EncoderOptions(pooling=pooling, similarity=bundle.manifest.retrieval.similarity)
    return load_encoder(source, name.removesuffix("_encoder"), options)


def _load_generator(source: str | Path) -> Loaded:
    return load_rag(source).generator if _is_rag(source) else load_any_generator(source)
