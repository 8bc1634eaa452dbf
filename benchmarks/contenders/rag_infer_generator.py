"""rag_infer's `Generator` on contexts that are given as token ids."""

from __future__ import annotations

import numpy as np

from benchmarks.contenders.serve import arguments, serve
from rag_infer import GenerationConfig
from rag_infer.generator import Generator
from rag_infer.version import __version__


def main() -> None:
    """Serve."""
    given = arguments()
    inputs = np.load(given["inputs"])
    device = given.get("device", "cpu")
    generator = Generator.from_pretrained(given["bundle"], threads=given["threads"], device=device)
    config = GenerationConfig(**given["generation"])

    def run() -> dict[str, object]:
        output = generator.generate_from_contexts(
            context_input_ids=inputs["ids"],
            context_attention_mask=inputs["mask"],
            doc_scores=inputs["doc_scores"],
            config=config,
        )
        return {"tokens": output.sequences.tolist(), "scores": output.scores.tolist()}

    serve(run, {"rag_infer": __version__})


if __name__ == "__main__":
    main()
