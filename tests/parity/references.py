"""transformers' RAG classes around a generator that is given: the reference of the parity tests."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from rag_infer import Generator
from rag_infer.export.tracing import quiet_transformers
from tests.parity.settings import Case


class Pair(NamedTuple):
    """A model, and its export."""

    model: Any
    generator: Generator


CLASSES = {
    "rag-token": transformers.RagTokenForGeneration,
    "rag-sequence": transformers.RagSequenceForGeneration,
}


def rag_model(generator: Any, strategy: str, *, n_docs: int, **settings: Any) -> Any:
    """A RAG model with this generator and a question encoder that is not run."""
    encoder = transformers.DPRConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    config = transformers.RagConfig.from_question_encoder_generator_configs(
        encoder, generator.config, n_docs=n_docs, **settings
    )
    model = CLASSES[strategy](
        config=config, question_encoder=transformers.DPRQuestionEncoder(encoder), generator=generator
    )
    return model.eval()


def generate(
    generator: Any, strategy: str, case: Case
) -> tuple[NDArray[np.int64], NDArray[np.float32] | None]:
    """(sequences, their scores where transformers gives them) of a case."""
    model = rag_model(generator, strategy, n_docs=case.n_docs)
    settings: dict[str, Any] = dict(case.settings)
    scored = strategy == "rag-token" and settings["num_beams"] > 1
    if strategy == "rag-token":
        settings |= {"output_scores": scored, "return_dict_in_generate": True}
    with torch.no_grad(), quiet_transformers():
        output = model.generate(
            context_input_ids=torch.from_numpy(case.input_ids),
            context_attention_mask=torch.from_numpy(case.attention_mask),
            doc_scores=torch.from_numpy(case.doc_scores),
            n_docs=case.n_docs,
            **settings,
        )
    if strategy != "rag-token":
        return output.numpy(), None
    return output.sequences.numpy(), output.sequences_scores.numpy() if scored else None


def loss(
    generator: Any, strategy: str, case: Case, labels: NDArray[np.int64], **settings: Any
) -> NDArray[np.float32]:
    """The loss of given labels; float32 ``[questions]``, or ``[]`` with ``reduce_loss``."""
    epsilon = settings.pop("epsilon", 0.0)
    model = rag_model(generator, strategy, n_docs=case.n_docs, label_smoothing=epsilon)
    with torch.no_grad(), quiet_transformers():
        output = model(
            context_input_ids=torch.from_numpy(case.input_ids),
            context_attention_mask=torch.from_numpy(case.attention_mask),
            doc_scores=torch.from_numpy(case.doc_scores),
            labels=torch.from_numpy(labels),
            n_docs=case.n_docs,
            **settings,
        )
    result: NDArray[np.float32] = output.loss.numpy()
    return result
