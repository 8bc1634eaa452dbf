"""Greedy RAG-Token with rag_infer's `Generator`, passage and question in two pieces."""

from __future__ import annotations

import numpy as np

from benchmarks.contenders.serve import arguments, serve
from rag_infer import GenerationConfig, marginalise
from rag_infer.compose import CausalContext
from rag_infer.generator import Generator
from rag_infer.version import __version__


def main() -> None:
    """Serve."""
    given = arguments()
    inputs = np.load(given["inputs"])
    generator = Generator.from_pretrained(
        given["bundle"], threads=given["threads"], passage_cache_mb=given["passage_cache_mb"]
    )
    generator.composer.preamble_ids = ()
    pairs = zip(inputs["passages"].tolist(), inputs["questions"].tolist(), strict=True)
    contexts = [CausalContext(tuple(passage), tuple(question)) for passage, question in pairs]
    priors = list(marginalise.log_priors(inputs["doc_scores"]))
    # No end of text: as many tokens as were asked for.
    config = GenerationConfig(max_new_tokens=given["tokens"], min_length=given["tokens"])

    def run() -> dict[str, object]:
        generation = generator.begin([contexts], priors, config)
        return {"tokens": list(generation.results()[0][0].hypothesis.tokens)}

    serve(run, {"rag_infer": __version__})


if __name__ == "__main__":
    main()
