"""Passage vectors with fastembed, on the ONNX graph that optimum exports of the same weights."""

from __future__ import annotations

import json
from pathlib import Path

import fastembed
import numpy as np
from fastembed.common.model_description import ModelSource, PoolingType

from benchmarks.contenders.serve import arguments, serve, sketch

NAME = "local/minilm"


def main() -> None:
    """Serve."""
    given = arguments()
    texts = json.loads(Path(given["texts"]).read_text(encoding="utf-8"))
    fastembed.TextEmbedding.add_custom_model(
        model=NAME,
        pooling=PoolingType.MEAN,
        normalization=True,
        sources=ModelSource(url="https://localhost/none"),
        dim=384,
        model_file="model.onnx",
    )
    model = fastembed.TextEmbedding(
        NAME, specific_model_path=given["model"], threads=given["threads"], providers=["CPUExecutionProvider"]
    )

    def run() -> object:
        return sketch(np.stack(list(model.embed(texts, batch_size=32))))

    serve(run, {"fastembed": fastembed.__version__})


if __name__ == "__main__":
    main()
