"""Importing the package is quick and silent, loads nothing heavy, and shows exactly the public names."""

from __future__ import annotations

import json
import subprocess
import sys

import rag_infer

HEAVY = (
    "torch",
    "transformers",
    "optimum",
    "onnx",
    "onnxruntime",
    "tokenizers",
    "hnswlib",
    "sqlite3",
    "fastapi",
    "ray",
)
SECONDS_AIMED_AT = 0.3
SECONDS_FAR_ABOVE = 1.5

PUBLIC = {
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
}


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stderr == ""
    return done.stdout


def test_import_is_quick_and_light() -> None:
    code = (
        "import time, sys; started = time.perf_counter(); import rag_infer; "
        f"took = time.perf_counter() - started; import json; "
        f"print(json.dumps([took, [m for m in {HEAVY!r} if m in sys.modules]]))"
    )
    took, loaded = min(json.loads(run_python(code)) for _ in range(3))
    print(f"import rag_infer takes {took:.3f} s (aim: {SECONDS_AIMED_AT} s)")
    assert loaded == []
    assert took < SECONDS_FAR_ABOVE


def test_runtime_loads_no_training_library() -> None:
    code = (
        "import sys, rag_infer; [getattr(rag_infer, n) for n in rag_infer.__all__]; "
        "print([m for m in ('torch', 'transformers', 'optimum', 'onnx') if m in sys.modules])"
    )
    assert run_python(code).strip() == "[]"


def test_public_surface() -> None:
    assert set(rag_infer.__all__) == PUBLIC
    assert dir(rag_infer) == sorted(PUBLIC)
    for name in PUBLIC:
        assert getattr(rag_infer, name) is not None


def test_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(rag_infer, "Retriever")
