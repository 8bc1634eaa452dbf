"""Whether two ways of running a generator choose the same tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from rag_infer.compose import CausalComposer
from rag_infer.errors import ExportError
from rag_infer.export.causal import LoadedGenerator
from rag_infer.export.sample_questions import SAMPLES
from rag_infer.export.tracing import quiet_transformers
from rag_infer.generate.causal import CausalDecoder
from rag_infer.parts import CausalGeneratorPart
from rag_infer.session import Session
from rag_infer.text import Tokenizer

# Prompts and tokens compared with transformers' own generate, which runs on every export.
GENERATE_PROMPTS, GENERATE_TOKENS = 2, 12
# Tokens of each of the sample questions' answers on which two precisions are compared.
ANSWER_TOKENS = 12


def sample_prompts(
    tokenizer_file: Path, part: CausalGeneratorPart
) -> tuple[tuple[int, ...], list[list[int]]]:
    """(the preamble's tokens, for each sample question the tokens after it), composed as the runtime does."""
    composer = CausalComposer(Tokenizer(tokenizer_file), part)
    contexts = [composer.compose(s.question, [(s.title, s.text)])[0] for s in SAMPLES]
    return composer.preamble_ids, [[*c.passage_ids, *c.question_ids] for c in contexts]


def check_greedy(generator: LoadedGenerator, part: CausalGeneratorPart, graph: Path) -> dict[str, Any]:
    """Greedy answers of the graph against transformers' ``generate``, token by token.

    Raises:
        ExportError: another token; fp32 differences of 1e-6 do not change the best of 49,152.
    """
    decoder = CausalDecoder(Session(graph), part)
    preamble, prompts = sample_prompts(graph.with_name("tokenizer.json"), part)
    compared = 0
    for prompt in prompts[:GENERATE_PROMPTS]:
        found = greedy(decoder, preamble, prompt, GENERATE_TOKENS, part.eos_token_ids)
        expected = greedy_in_transformers(generator, [*preamble, *prompt], GENERATE_TOKENS)
        if found != expected:
            raise ExportError(
                f"the graph's greedy tokens {found} are not those of transformers' generate, {expected}"
            )
        compared += len(found)
    return {"prompts": GENERATE_PROMPTS, "tokens": compared, "equal": compared}


def greedy(
    decoder: CausalDecoder, preamble: Sequence[int], prompt: Sequence[int], tokens: int, eos: Sequence[int]
) -> list[int]:
    """The best token each time, up to an end of text (which is included) or ``tokens``."""
    state, logits = decoder.prefill(preamble, [[prompt]], reserve=tokens)
    found: list[int] = []
    parent = np.zeros((1, 1), dtype=np.int64)
    while True:
        found.append(int(logits[0, 0].argmax()))
        if len(found) == tokens or found[-1] in eos:
            return found
        logits = decoder.step(state, parent, np.array([[found[-1]]], dtype=np.int64))


def greedy_in_transformers(generator: LoadedGenerator, prompt: Sequence[int], tokens: int) -> list[int]:
    """The same by transformers."""
    ids = torch.tensor([list(prompt)])
    config = transformers.GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=tokens,
        eos_token_id=list(generator.eos_token_ids),
        pad_token_id=generator.pad_token_id,
    )
    with torch.no_grad(), quiet_transformers():
        output = generator.model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
    return [int(t) for t in output[0, ids.shape[1] :]]


def compare_precisions(reference: Path, lowered: Path, part: CausalGeneratorPart) -> dict[str, Any]:
    """How often a decoder graph of another precision chooses the tokens of the fp32 one, over the sample questions.

    Args:
        reference, lowered: the two graphs; ``tokenizer.json`` lies beside the second.
        part: their entry in the manifest.

    Returns:
        token_agreement: share of the fp32 answers' tokens that are also the other graph's best, given the same
        tokens before; equal_answers: share of the answers it would give word for word; prompts, tokens: how many.
    """
    preamble, prompts = sample_prompts(lowered.with_name("tokenizer.json"), part)
    answers = _answers(CausalDecoder(Session(reference), part), preamble, prompts, part.eos_token_ids)
    decoder = CausalDecoder(Session(lowered), part)
    same = [
        _best_tokens(decoder, preamble, prompt, answer) == np.array(answer)
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    return {
        "token_agreement": round(float(np.concatenate(same).mean()), 4),
        "equal_answers": round(float(np.mean([s.all() for s in same])), 4),
        "prompts": len(prompts),
        "tokens": sum(map(len, answers)),
    }


def _best_tokens(
    decoder: CausalDecoder, preamble: Sequence[int], prompt: Sequence[int], answer: Sequence[int]
) -> NDArray[np.int64]:
    """The graph's best token at each place of an answer, given the answer before it, int64 ``[tokens]``.

    Token by token, as the runtime goes.
    """
    state, logits = decoder.prefill(preamble, [[prompt]], reserve=len(answer))
    best = [int(logits[0, 0].argmax())]
    parent = np.zeros((1, 1), dtype=np.int64)
    for token in answer[:-1]:
        logits = decoder.step(state, parent, np.array([[token]], dtype=np.int64))
        best.append(int(logits[0, 0].argmax()))
    return np.array(best)


def _answers(
    decoder: CausalDecoder, preamble: Sequence[int], prompts: Sequence[Sequence[int]], eos: Sequence[int]
) -> list[list[int]]:
    return [greedy(decoder, preamble, prompt, ANSWER_TOKENS, eos) for prompt in prompts]
