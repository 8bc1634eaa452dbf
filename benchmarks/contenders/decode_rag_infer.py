"""Greedy RAG-Token with rag_infer: every token comes of all rows together.

What it is compared with cannot do that. So that answers can be compared all the same, each row is first decoded alone,
as a question with one passage; that is not timed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.contenders.serve import arguments, serve
from rag_infer import GenerationConfig
from rag_infer.generator import Generator
from rag_infer.version import __version__


def main() -> None:
    """Serve."""
    given = arguments()
    inputs = np.load(given["inputs"])
    contexts = {"context_input_ids": inputs["ids"], "context_attention_mask": inputs["mask"]}
    generator = Generator.from_pretrained(given["bundle"], threads=given["threads"], passage_cache_mb=0)
    # No end of text: as many tokens as were asked for.
    config = GenerationConfig(max_new_tokens=given["tokens"], min_length=given["tokens"])

    def decode(doc_scores: Any) -> list[list[int]]:
        output = generator.generate_from_contexts(**contexts, doc_scores=doc_scores, config=config)
        tokens: list[list[int]] = output.sequences.tolist()
        return tokens

    alone = decode(np.zeros((len(inputs["ids"]), 1), dtype=np.float32))

    def run() -> dict[str, object]:
        decode(inputs["doc_scores"])
        return {"rows": alone}

    serve(run, {"rag_infer": __version__})


if __name__ == "__main__":
    main()
