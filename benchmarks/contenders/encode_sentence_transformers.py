"""Passage vectors with sentence-transformers, on PyTorch or on its ONNX backend."""

from __future__ import annotations

import json
from pathlib import Path

import sentence_transformers
import torch

from benchmarks.contenders.serve import arguments, serve, sketch


def main() -> None:
    """Serve."""
    given = arguments()
    torch.set_num_threads(given["threads"])
    texts = json.loads(Path(given["texts"]).read_text(encoding="utf-8"))
    model = sentence_transformers.SentenceTransformer(given["model"], device="cpu")

    def run() -> object:
        return sketch(model.encode(texts, batch_size=32, normalize_embeddings=True, show_progress_bar=False))

    serve(run, {"sentence-transformers": sentence_transformers.__version__, "torch": torch.__version__})


if __name__ == "__main__":
    main()
