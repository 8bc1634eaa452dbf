"""``rag-infer export``: checkpoints to a bundle."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rag_infer.bundle import PRECISIONS
from rag_infer.cli.show import show_parity
from rag_infer.errors import ExportError

HELP = "export trained checkpoints to a bundle, and prove it equal to them"
EXAMPLE = """rag-infer export bundle/ --question-encoder Q --passage-encoder P --generator G
  rag-infer export bundle/ --rag RAG --passage-encoder P --precision int8
  rag-infer export bundle/ --text-encoder CLIP --image-encoder CLIP --generator G"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "out", type=Path, metavar="OUT", help="the bundle's folder; it appears whole or not at all"
    )
    add_checkpoint_options(parser)
    parser.add_argument(
        "--shared-space",
        action="store_true",
        default=None,
        help="texts and images may be compared (default: where both encoders are one checkpoint)",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="fp32 (default), fp16 for GPUs, or int8 for CPUs",
    )
    parser.add_argument(
        "--pooling", choices=("mean", "cls", "pooler"), help="of plain BERT encoders (default: mean)"
    )
    parser.add_argument(
        "--similarity", choices=("cosine", "dot"), help="default: as the encoder says, else dot"
    )
    parser.add_argument(
        "--score-scale", type=float, help="factor on scores (default: 20 for cosine, 1 for dot)"
    )
    parser.add_argument(
        "--n-docs", type=int, help="passages retrieved by default (default: as --rag says, else 5)"
    )
    parser.add_argument("--force", action="store_true", help="replace a bundle that is there")


def add_checkpoint_options(parser: argparse.ArgumentParser) -> None:
    """--rag, --question-encoder, --passage-encoder, --text-encoder, --image-encoder and --generator."""
    parser.add_argument(
        "--rag", metavar="C", help="checkpoint of transformers' RAG classes: question encoder and generator"
    )
    parser.add_argument(
        "--question-encoder", metavar="C", help="sentence-transformers, BERT or DPR checkpoint"
    )
    parser.add_argument("--passage-encoder", metavar="C", help="likewise (default: the question encoder)")
    parser.add_argument(
        "--text-encoder",
        metavar="C",
        help="in place of --question-encoder and --passage-encoder; also the text tower of CLIP or SigLIP",
    )
    parser.add_argument("--image-encoder", metavar="C", help="CLIP, SigLIP, ViT or ResNet checkpoint")
    parser.add_argument(
        "--generator",
        metavar="C",
        help="Llama (folder or GGUF), BART, mBART, T5, Pegasus, Marian, or one that sees: VisionEncoderDecoder with "
        "GPT-2, or BART that reads images before its text",
    )


def run(arguments: argparse.Namespace) -> int:
    """Export and print the report."""
    bundle = load_export().export_bundle(
        arguments.out,
        rag=arguments.rag,
        question_encoder=arguments.question_encoder,
        passage_encoder=arguments.passage_encoder,
        text_encoder=arguments.text_encoder,
        image_encoder=arguments.image_encoder,
        generator=arguments.generator,
        shared_space=arguments.shared_space,
        precision=arguments.precision,
        force=arguments.force,
        pooling=arguments.pooling,
        similarity=arguments.similarity,
        score_scale=arguments.score_scale,
        n_docs=arguments.n_docs,
        report=_tell if sys.stderr.isatty() else None,
    )
    manifest = bundle.manifest
    if arguments.json:
        print(
            json.dumps(
                {"bundle": str(bundle.folder), "precision": manifest.precision, "parity": manifest.parity}
            )
        )
        return 0
    size = sum(record.size for record in manifest.files.values())
    print(f"{bundle.folder}: {manifest.precision}, {len(manifest.files)} files, {size / 1e6:.0f} MB")
    show_parity(manifest.parity)
    return 0


def _tell(line: str) -> None:
    print(f"rag-infer: {line}", file=sys.stderr, flush=True)


def load_export() -> Any:
    """The export package, with what it needs.

    Raises:
        ExportError: PyTorch or another package of the extra is not installed.
    """
    try:
        from rag_infer.export import bundle_writer, reverify
    except ModuleNotFoundError as error:
        raise ExportError(f"{error.name} is not installed: pip install 'rag_infer[export]'") from None
    del bundle_writer, reverify
    from rag_infer import export

    return export
