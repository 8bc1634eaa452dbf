"""Passage vectors with rag_infer's `TextEncoder`."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.contenders.serve import arguments, serve, sketch
from rag_infer.bundle import Bundle
from rag_infer.encode import TextEncoder
from rag_infer.version import __version__


def main() -> None:
    """Serve."""
    given = arguments()
    texts = json.loads(Path(given["texts"]).read_text(encoding="utf-8"))
    bundle = Bundle.load(given["bundle"])
    encoder = TextEncoder.from_bundle(bundle, bundle.manifest.passage_encoder, threads=given["threads"])
    serve(lambda: sketch(encoder.encode(texts)), {"rag_infer": __version__})


if __name__ == "__main__":
    main()
