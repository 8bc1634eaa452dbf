"""CTranslate2's beam search over each context alone: no marginalisation, as nothing of the kind is in it."""

from __future__ import annotations

import ctranslate2
import numpy as np

from benchmarks.contenders.serve import arguments, serve


def main() -> None:
    """Serve."""
    given = arguments()
    inputs = np.load(given["inputs"])
    translator = ctranslate2.Translator(
        given["model"], device="cpu", compute_type=given["compute_type"], intra_threads=given["threads"]
    )
    names = [f"<{i}>" if i < 4 else f"w{i}" for i in range(int(inputs["ids"].max()) + 1)]
    contexts = [[names[t] for t in row] for row in inputs["ids"].tolist()]
    tokens = given["tokens"]

    def run() -> None:
        translator.translate_batch(
            contexts,
            beam_size=given["num_beams"],
            min_decoding_length=tokens,
            max_decoding_length=tokens,
            max_batch_size=len(contexts),
        )

    serve(run, {"ctranslate2": ctranslate2.__version__})


if __name__ == "__main__":
    main()
