"""A tiny random Llama, its exported bundle, and RAG-Token written down in PyTorch as the paper has it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import LlamaForCausalLM
from transformers.modeling_outputs import CausalLMOutput

from rag_infer.generator import Generator
from rag_infer.parts import PromptTemplate
from tests.tiny_llama import END, PAD, VOCAB, write_llama

MAX_POSITIONS = 384
PROMPT = PromptTemplate(
    preamble="Say it shortly.\n<turn>",
    passage="{title}: {text}\n",
    question="Question: {question}\n<turn>Answer:",
    max_passage_tokens=48,
)


def make_checkpoint(folder: Path) -> LlamaForCausalLM:
    """Write a random checkpoint whose next tokens are well apart, and which comes to an end now and then."""
    model = write_llama(folder, max_position_embeddings=MAX_POSITIONS, initializer_range=0.5)
    with torch.no_grad():
        model.lm_head.weight[END] *= 2.5
        model.lm_head.weight[PAD] = 0
    model.save_pretrained(folder)
    return model


class MarginalLlama(LlamaForCausalLM):
    """A language model whose next-token distribution is RAG-Token's, so that transformers' own search runs on it.

    ``input_ids`` is a start token and the answer so far; every passage's context is put before the answer, and
    the model runs on the whole of it.
    """

    contexts: Sequence[Sequence[int]]
    log_priors: torch.Tensor

    def per_document(self, answers: torch.Tensor) -> torch.Tensor:
        """Log p(v | x, z, y_<t): float64 ``[docs, answers, vocab]``."""
        rows = [[*context, *answer] for context in self.contexts for answer in answers.tolist()]
        ids = torch.full((len(rows), max(map(len, rows))), PAD)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
        with torch.no_grad():  # what stands to the right of a token is not seen by it
            logits = super().forward(ids, use_cache=False).logits
        last = logits[torch.arange(len(rows)), torch.tensor([len(row) - 1 for row in rows])]
        return torch.log_softmax(last.double(), dim=-1).view(len(self.contexts), len(answers), -1)

    def joint(self, answers: torch.Tensor) -> torch.Tensor:
        """Log p(z, v | x, y_<t): float64 ``[docs, answers, vocab]``."""
        return self.per_document(answers) + self.log_priors[:, None, None]

    def forward(self, input_ids: torch.Tensor, **_: Any) -> CausalLMOutput:
        return CausalLMOutput(logits=torch.logsumexp(self.joint(input_ids[:, 1:]), dim=0)[:, None])


@dataclass(frozen=True)
class TinyRag:
    """The checkpoint in PyTorch and as an exported bundle."""

    model: LlamaForCausalLM
    folder: Path
    generator: Generator

    def marginal(self, contexts: Sequence[Sequence[int]], doc_scores: Sequence[float]) -> MarginalLlama:
        """RAG-Token's distribution for one question."""
        made = MarginalLlama(self.model.config).eval()
        made.load_state_dict(self.model.state_dict())
        made.generation_config.pad_token_id = PAD
        made.contexts = contexts
        made.log_priors = torch.log_softmax(torch.tensor(doc_scores, dtype=torch.float64), dim=0)
        return made

    def search(self, marginal: MarginalLlama, *, max_new_tokens: int, **settings: Any) -> Any:
        """Generate with transformers itself, on the marginal; `sequences` lack the start token."""
        if "min_length" in settings:
            settings["min_length"] += 1
        start = torch.tensor([[PAD]])
        found = marginal.generate(
            start,
            attention_mask=torch.ones_like(start),
            max_length=max_new_tokens + 1,
            do_sample=False,
            use_cache=False,
            return_dict_in_generate=True,
            output_scores=True,
            **settings,
        )
        found.sequences = found.sequences[:, 1:]
        return found


Arrays = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]


def random_contexts(seed: int, *, questions: int, num_docs: int, longest: int = 21) -> list[list[list[int]]]:
    """Per question its contexts, of unequal lengths and of ordinary tokens."""
    random = np.random.default_rng(seed)
    return [
        [random.integers(4, VOCAB, size=random.integers(1, longest + 1)).tolist() for _ in range(num_docs)]
        for _ in range(questions)
    ]


def arrays(contexts: Sequence[Sequence[Sequence[int]]], doc_scores: Sequence[Sequence[float]]) -> Arrays:
    """What `generate_from_contexts` takes: right-padded ids, mask, scores."""
    rows = [context for question in contexts for context in question]
    ids = np.full((len(rows), max(map(len, rows))), PAD, dtype=np.int64)
    mask = np.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return ids, mask, np.array(doc_scores, dtype=np.float32)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyRag]:
    from rag_infer.export import export_bundle

    # For a model this small more threads only wait for each other.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("tiny_rag")
    model = make_checkpoint(folder / "checkpoint")
    export_bundle(folder / "bundle", generator=folder / "checkpoint", prompt=PROMPT)
    yield TinyRag(model, folder / "bundle", Generator.from_pretrained(folder / "bundle", threads=1))
    torch.set_num_threads(threads)
