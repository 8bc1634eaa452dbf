"""Greedy decoding with onnxruntime-genai: all rows in one batch, each for itself, as it has no marginalisation."""

from __future__ import annotations

import json

import numpy as np
import onnxruntime_genai

from benchmarks.contenders.serve import arguments, serve


def main() -> None:
    """Serve."""
    given = arguments()
    prompts = np.load(given["inputs"])["ids"].astype(np.int32)
    rows, context = prompts.shape
    config = onnxruntime_genai.Config(given["model"])
    threads = {"session_options": {"intra_op_num_threads": given["threads"]}}
    config.overlay(json.dumps({"model": {"decoder": threads}}))
    model = onnxruntime_genai.Model(config)
    length = context + given["tokens"]

    def run() -> dict[str, object]:
        parameters = onnxruntime_genai.GeneratorParams(model)
        # No end of text: as many tokens as were asked for.
        parameters.set_search_options(batch_size=rows, do_sample=False, min_length=length, max_length=length)
        generator = onnxruntime_genai.Generator(model, parameters)
        generator.append_tokens(prompts)
        while not generator.is_done():
            generator.generate_next_token()
        return {"rows": [generator.get_sequence(i)[context:].tolist() for i in range(rows)]}

    serve(run, {"onnxruntime-genai": onnxruntime_genai.__version__})


if __name__ == "__main__":
    main()
