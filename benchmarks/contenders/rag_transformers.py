"""transformers' RAG classes on contexts that are given as token ids."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import transformers

from benchmarks.contenders.serve import arguments, serve


def load(folder: str, kind: str) -> Any:
    """The generator of a folder inside a RAG class; the question encoder is never run and is small."""
    generator = transformers.BartForConditionalGeneration.from_pretrained(folder).eval()
    small = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    encoder = transformers.DPRQuestionEncoder(transformers.DPRConfig(**small))
    config = transformers.RagConfig.from_question_encoder_generator_configs(encoder.config, generator.config)
    model = getattr(transformers, kind)(config=config, question_encoder=encoder, generator=generator)
    return model.eval()


def main() -> None:
    """Serve."""
    given = arguments()
    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(given["threads"])
    inputs = np.load(given["inputs"])
    settings = dict(given["generation"])
    kind = "RagTokenForGeneration" if settings.pop("strategy") == "rag-token" else "RagSequenceForGeneration"
    device = given.get("device", "cpu")
    model = load(given["checkpoint"], kind).to(device, dtype=getattr(torch, given.get("dtype", "float32")))
    if given.get("compile"):
        model.rag.generator.compile()
    tensors = {
        "context_input_ids": torch.from_numpy(inputs["ids"]).to(device),
        "context_attention_mask": torch.from_numpy(inputs["mask"]).to(device),
        "doc_scores": torch.from_numpy(inputs["doc_scores"]).to(device),
    }
    n_docs = inputs["doc_scores"].shape[1]

    def run() -> dict[str, object]:
        with torch.inference_mode():
            if kind == "RagTokenForGeneration":
                output = model.generate(**tensors, n_docs=n_docs, **settings)
            else:
                output = model.generate(
                    **tensors, n_docs=n_docs, do_deduplication=True, num_return_sequences=1, **settings
                )
        return {"tokens": output.tolist()}

    serve(run, {"transformers": transformers.__version__, "torch": torch.__version__})


if __name__ == "__main__":
    main()
