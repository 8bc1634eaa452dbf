"""Runs onnxruntime-genai's model builder, with its own options, in the peers' environment.

Version 0.18.0 of the builder imports two classes that transformers 4.57.6 lacks, for models that are not built here:
others stand in for them.
"""

from __future__ import annotations

import runpy

import transformers

ABSENT = ("Qwen3_5ForConditionalGeneration", "Qwen3_5MoeForConditionalGeneration")


def main() -> None:
    """Build."""
    for name in ABSENT:
        if not hasattr(transformers, name):
            setattr(transformers, name, transformers.PreTrainedModel)
    runpy.run_module("onnxruntime_genai.models.builder", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
