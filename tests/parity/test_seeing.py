"""Generators that see: likelihoods, sequences and posteriors against PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch

from rag_infer import GenerationConfig, Generator
from rag_infer.compose import Seq2SeqContext
from rag_infer.export import export_bundle
from rag_infer.export.tracing import quiet_transformers
from rag_infer.images.processing import prepare
from tests.parity.seeing import FIRST_WORD, PAD, Contexts, Seeing, ended
from tests.seeing_checkpoints import write_captioner, write_vision_text
from tests.seq2seq_checkpoints import VOCAB

# By name: (kind, settings of the checkpoint).
MODELS = {
    "captioner": ("captioner", {"images": ["passage"]}),
    "projected captioner": ("captioner", {"width": 32, "images": ["passage"], "n_head": 2}),
    "vit": ("vision-text", {"vision": "vit"}),
    "resnet": ("vision-text", {"vision": "resnet", "images": ["passage"]}),
    "clip": ("vision-text", {"vision": "clip", "images": ["question"], "scale_embedding": True}),
}
WRITERS = {"captioner": write_captioner, "vision-text": write_vision_text}


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Seeing]:
    """By the name of `MODELS`."""

    @cache
    def make(name: str) -> Seeing:
        kind, settings = MODELS[name]
        folder = tmp_path_factory.mktemp(name.replace(" ", "-"))
        model = WRITERS[kind](folder / "checkpoint", **settings)
        bundle = export_bundle(folder / "bundle", generator=folder / "checkpoint")
        return Seeing(kind, model, Generator(bundle, threads=1))

    return make


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("strategy", ["rag-token", "rag-sequence"])
def test_likelihoods(seeing: Callable[[str], Seeing], name: str, strategy: str) -> None:
    twin = seeing(name)
    for seed, (questions, n_docs) in enumerate([(2, 3), (1, 1), (3, 2)]):
        contexts = twin.draw(seed, questions=questions, n_docs=n_docs)
        random = np.random.default_rng(seed)
        answers = [random.integers(FIRST_WORD, VOCAB, size=n).tolist() for n in (7, 1, 4)[:questions]]
        labels = np.full((questions, 8), -100, dtype=np.int64)
        for label, answer in zip(labels, answers, strict=True):
            label[: 1 + len(answer)] = [twin.start, *answer]
        found = twin.generator.score(
            *contexts[:3], labels, pixel_values=contexts.pixel_values, strategy=strategy
        )
        wanted = [-twin.log_likelihood(contexts, q, answers[q], strategy) for q in range(questions)]
        np.testing.assert_allclose(found, wanted, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("num_beams", [1, 3])
def test_rag_token(seeing: Callable[[str], Seeing], name: str, num_beams: int) -> None:
    """The sequences and scores of transformers' own search on the marginal, and the posterior of every token."""
    twin = seeing(name)
    contexts = twin.draw(5, questions=2, n_docs=3)
    settings = {"num_beams": num_beams, "max_length": 9, "num_return_sequences": num_beams}
    output = twin.generator.generate_from_contexts(
        *contexts[:3],
        pixel_values=contexts.pixel_values,
        config=GenerationConfig(forced_eos_token_id=None, **settings),
    )
    for question in range(2):
        wanted = twin.search(contexts, question, **settings)
        own = slice(question * num_beams, (question + 1) * num_beams)
        rows = output.sequences[own].tolist()
        assert [ended(row) for row in rows] == [ended(row) for row in wanted.sequences.tolist()]
        if num_beams > 1:
            np.testing.assert_allclose(output.scores[own], wanted.sequences_scores.numpy(), atol=1e-4)
        check_posterior(twin, contexts, question, rows[0], output.doc_posterior[own][0])
    assert output.sequences[0].tolist() != output.sequences[num_beams].tolist(), (
        "the images make no difference"
    )


def check_posterior(
    twin: Seeing, contexts: Contexts, question: int, row: list[int], found: np.ndarray
) -> None:
    """p(z_t | x, y_<=t) = p(z|x) p(y_t | x, z, y_<t) over its sum, of each token."""
    answer = ended(row)
    joint = twin.token_log_probs(contexts, question, answer) + twin.log_priors(contexts, question)[:, None]
    wanted = torch.softmax(joint, dim=0).T.numpy()
    np.testing.assert_allclose(found[1 : 1 + len(answer)], wanted, atol=1e-4)


@pytest.mark.parametrize("name", ["captioner", "vit"])
def test_rag_sequence(seeing: Callable[[str], Seeing], name: str) -> None:
    """Each passage's beams by transformers, every candidate scored under every passage, the best first."""
    twin = seeing(name)
    contexts = twin.draw(8, questions=2, n_docs=3)
    beams = 2
    search = {"num_beams": beams, "max_length": 8}
    config = GenerationConfig(
        strategy="rag-sequence", num_return_sequences=2, forced_eos_token_id=None, **search
    )
    output = twin.generator.generate_from_contexts(
        *contexts[:3], pixel_values=contexts.pixel_values, config=config
    )
    for question in range(2):
        candidates = []
        for row in range(3 * question, 3 * question + 3):
            found = twin.search(contexts.alone(row), 0, num_return_sequences=beams, **search)
            candidates += [ended(s) for s in found.sequences.tolist()]
        distinct = [c for i, c in enumerate(candidates) if c not in candidates[:i]]
        ranked = sorted(
            ((twin.log_likelihood(contexts, question, c, "rag-sequence"), c) for c in distinct), reverse=True
        )[:2]
        own = slice(2 * question, 2 * question + 2)
        assert [ended(row) for row in output.sequences[own].tolist()] == [c for _, c in ranked]
        np.testing.assert_allclose(output.scores[own], [score for score, _ in ranked], atol=1e-4)
        best = twin.token_log_probs(contexts, question, ranked[0][1]).sum(dim=1)
        posterior = torch.softmax(best + twin.log_priors(contexts, question), dim=0)
        np.testing.assert_allclose(output.doc_posterior[own][0], posterior.numpy(), atol=1e-4)


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("name", ["captioner", "projected captioner"])
def test_captions_are_those_of_transformers(
    seeing: Callable[[str], Seeing], name: str, num_beams: int
) -> None:
    twin = seeing(name)
    contexts = twin.draw(3, questions=4, n_docs=1)
    config = GenerationConfig(num_beams=num_beams, max_length=12)
    found = twin.generator.generate_from_contexts(
        None, None, contexts.doc_scores, pixel_values=contexts.pixel_values, config=config
    )
    with torch.no_grad(), quiet_transformers():
        wanted = twin.model.generate(
            pixel_values=torch.from_numpy(contexts.pixel_values[:, 0]),
            num_beams=num_beams,
            max_length=12,
            do_sample=False,
        )
    assert [ended(row) for row in found.sequences.tolist()] == [ended(row) for row in wanted.tolist()]
    assert len({tuple(row) for row in wanted.tolist()}) > 1, "every image has one caption"


def test_an_image_that_is_missing_is_not_attended_to(seeing: Callable[[str], Seeing]) -> None:
    """As PyTorch's model with an ``image_mask``."""
    twin = seeing("vit")
    random = np.random.default_rng(4)
    images = [random.integers(0, 256, (40, 30, 3), dtype=np.uint8) for _ in range(2)]
    vision = twin.generator.vision
    assert vision is not None
    contexts = [[Seq2SeqContext((7, 8, 9)), Seq2SeqContext((10, 11))]]
    given = [[(images[0], images[1]), (images[0], None)]]
    config = GenerationConfig(max_length=7, forced_eos_token_id=None)
    priors = np.log(np.array([0.3, 0.7], dtype=np.float32))
    generation = twin.generator.begin(contexts, [priors], config, images=given)
    [[found]] = generation.results()
    pixels = np.stack([prepare(image, vision.processing) for image in images])
    tokens = [h.token for h in found.hypothesis.chain()]
    with torch.no_grad():
        logits = twin.model(
            input_ids=torch.tensor([[7, 8, 9], [10, 11, PAD]]),
            attention_mask=torch.tensor([[1, 1, 1], [1, 1, 0]]),
            pixel_values=torch.from_numpy(np.stack([pixels, pixels])),
            image_mask=torch.tensor([[1, 1], [1, 0]]),
            decoder_input_ids=torch.tensor([[twin.start, *tokens[:-1]]] * 2),
        )
    joint = torch.log_softmax(logits.double(), dim=-1) + torch.from_numpy(priors).double()[:, None, None]
    marginal = torch.logsumexp(joint, dim=0)
    assert marginal.argmax(dim=-1).tolist() == tokens
    posterior = torch.softmax(joint[:, torch.arange(len(tokens)), torch.tensor(tokens)], dim=0).T
    np.testing.assert_allclose([h.posterior for h in found.hypothesis.chain()], posterior.numpy(), atol=1e-4)
