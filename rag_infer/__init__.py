"""rag_infer: exact, fast inference for retrieval-augmented generation models on ONNX Runtime, without PyTorch.

The public names are loaded on first use, so that importing the package is quick.

>>> import rag_infer
>>> rag_infer.GenerationConfig(num_beams=4).strategy
'rag-token'
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rag_infer.version import __version__

if TYPE_CHECKING:
    from rag_infer.answer import Answer, AnswerPassage, Token
    from rag_infer.bundle import Bundle
    from rag_infer.encode import TextEncoder
    from rag_infer.engine import RagEngine
    from rag_infer.errors import (
        BundleError,
        CorpusError,
        CorruptIndexError,
        DeviceError,
        EncoderMismatchError,
        ExportError,
        GenerationError,
        ImageError,
        KnowledgeBaseError,
        RagInferError,
        RagInferWarning,
        VectorFileError,
    )
    from rag_infer.generate.config import GenerationConfig
    from rag_infer.generator import Generator, GeneratorOutput
    from rag_infer.images import Image
    from rag_infer.images.encode import ImageEncoder
    from rag_infer.knowledge import KnowledgeBase, Passage, ScoredPassage, SearchConfig
    from rag_infer.query import Query
    from rag_infer.stream import AnswerStream

_HOMES = {
    "RagEngine": "engine",
    "AnswerStream": "stream",
    "Answer": "answer",
    "AnswerPassage": "answer",
    "Token": "answer",
    "Generator": "generator",
    "GeneratorOutput": "generator",
    "GenerationConfig": "generate.config",
    "KnowledgeBase": "knowledge",
    "Passage": "knowledge",
    "ScoredPassage": "knowledge",
    "SearchConfig": "knowledge",
    "Bundle": "bundle",
    "TextEncoder": "encode",
    "ImageEncoder": "images.encode",
    "Image": "images",
    "Query": "query",
    "RagInferError": "errors",
    "BundleError": "errors",
    "ExportError": "errors",
    "KnowledgeBaseError": "errors",
    "CorruptIndexError": "errors",
    "EncoderMismatchError": "errors",
    "CorpusError": "errors",
    "VectorFileError": "errors",
    "GenerationError": "errors",
    "ImageError": "errors",
    "DeviceError": "errors",
    "RagInferWarning": "errors",
}

__all__ = [
    "RagEngine",
    "AnswerStream",
    "Answer",
    "AnswerPassage",
    "Token",
    "Generator",
    "GeneratorOutput",
    "GenerationConfig",
    "KnowledgeBase",
    "Passage",
    "ScoredPassage",
    "SearchConfig",
    "Bundle",
    "TextEncoder",
    "ImageEncoder",
    "Image",
    "Query",
    "RagInferError",
    "BundleError",
    "ExportError",
    "KnowledgeBaseError",
    "CorruptIndexError",
    "EncoderMismatchError",
    "CorpusError",
    "VectorFileError",
    "GenerationError",
    "ImageError",
    "DeviceError",
    "RagInferWarning",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rag_infer' has no attribute {name!r}")
    value = getattr(import_module(f"rag_infer.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
