"""Passage vectors with sentence-transformers, on PyTorch or on its ONNX backend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnxruntime
import sentence_transformers
import torch

from benchmarks.contenders.serve import arguments, serve, sketch


def load(folder: str, backend: str, threads: int) -> Any:
    """The model of a folder; for the backend "onnx" the folder holds ``model.onnx``, so nothing is exported."""
    settings: dict[str, Any] = {}
    if backend == "onnx":
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        settings = {
            "file_name": "model.onnx",
            "provider": "CPUExecutionProvider",
            "session_options": options,
            "export": False,
        }
    return sentence_transformers.SentenceTransformer(
        folder, device="cpu", backend=backend, model_kwargs=settings, local_files_only=True
    )


def main() -> None:
    """Serve."""
    given = arguments()
    torch.set_num_threads(given["threads"])
    texts = json.loads(Path(given["texts"]).read_text(encoding="utf-8"))
    model = load(given["model"], given["backend"], given["threads"])

    def run() -> object:
        return sketch(model.encode(texts, batch_size=32, normalize_embeddings=True, show_progress_bar=False))

    serve(run, {"sentence-transformers": sentence_transformers.__version__, "torch": torch.__version__})


if __name__ == "__main__":
    main()
