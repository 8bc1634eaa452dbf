"""Greedy decoding with llama.cpp's server, called in the process, without HTTP: a slot for each row, all rows in one
batch, each for itself, as it has no marginalisation.

In "F32" keys and values are float32 and the fused attention is off, which rounds to float16 whatever they are: only
so are its tokens those of float32. In other precisions both are as llama.cpp has them by default.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xllamacpp

from benchmarks.contenders.serve import arguments, serve

# A slot has room for a multiple of this many tokens.
CELLS = 256


def load(given: dict[str, Any], rows: int, length: int) -> Any:
    """A server with a slot for each row."""
    settings = xllamacpp.CommonParams()
    settings.model.path = given["model"]
    settings.n_gpu_layers = 0
    settings.n_parallel = rows
    settings.n_ctx = rows * -(-length // CELLS) * CELLS
    settings.n_batch = max(settings.n_batch, rows * length)
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = given["threads"]
    settings.cache_ram_mib = 0
    settings.verbosity = 0
    if given["precision"] == "F32":
        settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    return xllamacpp.Server(settings)


def instructions() -> str:
    """What its kernels were compiled for."""
    entries = xllamacpp.get_system_info().partition(":")[2].split("|")
    return " ".join(entry.split()[0] for entry in entries if entry.strip().endswith("= 1"))


def main() -> None:
    """Serve."""
    given = arguments()
    prompts = np.load(given["inputs"])["ids"].tolist()
    server = load(given, len(prompts), len(prompts[0]) + given["tokens"])
    request = {
        "prompt": prompts,
        "n_predict": given["tokens"],
        "temperature": 0.0,
        "samplers": ["temperature"],
        "ignore_eos": True,  # as many tokens as were asked for
        "cache_prompt": False,
    }

    def complete(**more: object) -> list[dict[str, Any]]:
        choices: list[dict[str, Any]] = server.handle_completions({**request, **more})["choices"]
        return sorted(choices, key=lambda choice: int(choice["index"]))

    # Ids come only with probabilities, which take their time: once, and what is timed must give the same text.
    known = complete(logprobs=1)
    tokens = [[piece["id"] for piece in choice["logprobs"]["content"]] for choice in known]

    def run() -> dict[str, object]:
        same = [c["text"] for c in complete()] == [c["text"] for c in known]
        return {"rows": tokens if same else None}

    serve(run, {"xllamacpp": xllamacpp.__version__, "llama.cpp instructions": instructions()})


if __name__ == "__main__":
    main()
