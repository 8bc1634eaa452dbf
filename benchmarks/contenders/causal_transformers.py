"""Greedy RAG-Token over a decoder-only model in PyTorch: the sums of the formula, written with transformers' model.

transformers has no RAG class for such a model: this is what one would write.
"""

from __future__ import annotations

import numpy as np
import torch
import transformers

from benchmarks.contenders.serve import arguments, serve


def main() -> None:
    """Serve."""
    given = arguments()
    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(given["threads"])
    model = transformers.AutoModelForCausalLM.from_pretrained(
        given["checkpoint"], gguf_file=given["gguf_file"], dtype=torch.float32
    ).eval()
    inputs = np.load(given["inputs"])
    prompts = torch.from_numpy(np.concatenate([inputs["passages"], inputs["questions"]], axis=1))
    log_priors = torch.log_softmax(torch.from_numpy(inputs["doc_scores"][0]), dim=0)

    def run() -> dict[str, object]:
        tokens: list[int] = []
        with torch.inference_mode():
            output = model(prompts, use_cache=True, logits_to_keep=1)
            while True:
                log_probs = torch.log_softmax(output.logits[:, -1], dim=-1)
                best = torch.logsumexp(log_probs + log_priors[:, None], dim=0).argmax()
                tokens.append(int(best))
                if len(tokens) == given["tokens"]:
                    return {"tokens": tokens}
                following = best.expand(len(prompts), 1)
                output = model(following, past_key_values=output.past_key_values, use_cache=True)

    serve(run, {"transformers": transformers.__version__, "torch": torch.__version__})


if __name__ == "__main__":
    main()
