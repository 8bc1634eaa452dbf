"""Generators that see, beside the PyTorch models they were made from, and RAG over them as the paper writes it.

Nothing here knows of the export or the runtime: every likelihood is one forward pass over whole rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from transformers.modeling_outputs import CausalLMOutput

from rag_infer import Generator
from rag_infer.export.tracing import quiet_transformers
from rag_infer.export.vision_text import VisionTextModel
from tests.seq2seq_checkpoints import VOCAB

START, PAD, END = {"captioner": 0, "vision-text": 2}, 1, 2
FIRST_WORD = 4


class Contexts(NamedTuple):
    """What `Generator.generate_from_contexts` takes; ids and mask are None where no text is read."""

    input_ids: NDArray[np.int64] | None
    attention_mask: NDArray[np.int64] | None
    doc_scores: NDArray[np.float32]
    pixel_values: NDArray[np.float32]

    def alone(self, row: int) -> Contexts:
        """One of them, as the only passage of a question."""
        ids, mask = (None if x is None else x[row : row + 1] for x in self[:2])
        return Contexts(ids, mask, np.zeros((1, 1), dtype=np.float32), self.pixel_values[row : row + 1])


@dataclass(frozen=True)
class Seeing:
    """A model, its export, and how contexts for it look.

    Attributes:
        kind: "captioner" or "vision-text".
        model: in PyTorch.
        generator: its export.
    """

    kind: str
    model: Any
    generator: Generator

    @property
    def start(self) -> int:
        """The token every answer begins with."""
        return START[self.kind]

    def draw(self, seed: int, *, questions: int, n_docs: int) -> Contexts:
        """Random contexts of unequal length, images that are far apart, and scores."""
        random = np.random.default_rng(seed)
        vision = self.generator.vision
        assert vision is not None
        rows, size = questions * n_docs, (3, vision.processing.height, vision.processing.width)
        pixels = random.normal(size=(rows, len(vision.sources), *size)).astype(np.float32) * 2
        if vision.sources[0] == "question":  # one for all of its passages
            pixels[:, 0] = np.repeat(pixels[::n_docs, 0], n_docs, axis=0)
        scores = random.normal(size=(questions, n_docs)).astype(np.float32) * 2
        if not vision.reads_text:
            return Contexts(None, None, scores, pixels)
        lengths = random.integers(1, 20, size=rows)
        ids = random.integers(FIRST_WORD, VOCAB, size=(rows, 20))
        mask = (np.arange(20) < lengths[:, None]).astype(np.int64)
        return Contexts(np.where(mask, ids, PAD), mask, scores, pixels)

    def per_document(self, contexts: Contexts, question: int, answers: torch.Tensor) -> torch.Tensor:
        """Log p(v | x, z, y_<t) after every token of answers from the start token on.

        Args:
            contexts: of all questions.
            question: which one.
            answers: int64 ``[answers, tokens]``.

        Returns:
            float64 ``[docs, answers, tokens, vocab]``.
        """
        n_docs, count = contexts.doc_scores.shape[1], len(answers)
        rows = np.repeat(np.arange(question * n_docs, (question + 1) * n_docs), count)
        tokens = answers.repeat(n_docs, 1)
        pixels = torch.from_numpy(contexts.pixel_values[rows])
        with torch.no_grad():
            if isinstance(self.model, VisionTextModel):
                assert contexts.input_ids is not None
                assert contexts.attention_mask is not None
                logits = self.model(
                    input_ids=torch.from_numpy(contexts.input_ids[rows]),
                    attention_mask=torch.from_numpy(contexts.attention_mask[rows]),
                    pixel_values=pixels,
                    decoder_input_ids=tokens,
                )
            else:
                logits = self.model(
                    pixel_values=pixels[:, 0], decoder_input_ids=tokens, use_cache=False
                ).logits
        return torch.log_softmax(logits.double(), dim=-1).view(n_docs, count, tokens.shape[1], -1)

    def log_priors(self, contexts: Contexts, question: int) -> torch.Tensor:
        """Log p(z|x), float64 ``[docs]``."""
        return torch.log_softmax(torch.from_numpy(contexts.doc_scores[question]).double(), dim=0)

    def token_log_probs(self, contexts: Contexts, question: int, answer: Sequence[int]) -> torch.Tensor:
        """Log p(y_t | x, z, y_<t) of an answer's tokens after the start token: float64 ``[docs, tokens]``."""
        given = torch.tensor([[self.start, *answer[:-1]]])
        found = self.per_document(contexts, question, given)[:, 0]
        return torch.gather(found, 2, torch.tensor(answer)[None, :, None].expand(len(found), -1, 1))[..., 0]

    def log_likelihood(
        self, contexts: Contexts, question: int, answer: Sequence[int], strategy: str
    ) -> float:
        """Log p(y|x): RAG-Token sums over passages at each token, RAG-Sequence once (Lewis et al. 2020, 2.1)."""
        tokens = self.token_log_probs(contexts, question, answer)
        priors = self.log_priors(contexts, question)
        if strategy == "rag-token":
            return float(torch.logsumexp(tokens + priors[:, None], dim=0).sum())
        return float(torch.logsumexp(tokens.sum(dim=1) + priors, dim=0))

    def search(self, contexts: Contexts, question: int, **settings: Any) -> Any:
        """The search of transformers itself, on RAG-Token's next-token distribution of a question."""
        marginal = Marginal(
            transformers.GPT2Config(vocab_size=VOCAB, n_embd=4, n_layer=1, n_head=1, n_positions=64)
        ).eval()
        marginal.seeing, marginal.contexts, marginal.question = self, contexts, question
        marginal.generation_config.update(bos_token_id=self.start, eos_token_id=END, pad_token_id=PAD)
        start = torch.tensor([[self.start]])
        with quiet_transformers():
            return marginal.generate(
                start,
                attention_mask=torch.ones_like(start),
                do_sample=False,
                use_cache=False,
                return_dict_in_generate=True,
                output_scores=True,
                **settings,
            )


class Marginal(transformers.GPT2LMHeadModel):
    """A language model whose next-token distribution is RAG-Token's, for transformers' search to run on."""

    seeing: Seeing
    contexts: Contexts
    question: int

    def forward(self, input_ids: torch.Tensor, **_: Any) -> CausalLMOutput:
        last = self.seeing.per_document(self.contexts, self.question, input_ids)[:, :, -1]
        joint = last + self.seeing.log_priors(self.contexts, self.question)[:, None, None]
        return CausalLMOutput(logits=torch.logsumexp(joint, dim=0)[:, None])


def ended(row: Sequence[int]) -> list[int]:
    """A sequence after its start token, up to its end of text, without padding."""
    tokens = list(row[1:])
    if END in tokens:
        return tokens[: tokens.index(END) + 1]
    while tokens and tokens[-1] == PAD:
        tokens.pop()
    return tokens
