"""Proof that an encoder-decoder's graphs compute what transformers computes; how far fp16 and int8 are from fp32."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rag_infer.compose import Seq2SeqComposer
from rag_infer.export.parity import STORED_COLUMNS, demand, report_figures, store, to_store
from rag_infer.export.sample_questions import SAMPLES
from rag_infer.export.scenario import image_inputs
from rag_infer.export.seq2seq import LoadedSeq2Seq
from rag_infer.export.vision_text import VisionTextModel
from rag_infer.generate.seq2seq import Seq2SeqDecoder
from rag_infer.generate.vision import Seen, Vision, see_pixels
from rag_infer.parts import Seq2SeqGeneratorPart
from rag_infer.session import Session
from rag_infer.text import Tokenizer
from rag_infer.verify import differences
from rag_infer.verify_seq2seq import Chain

Float = NDArray[np.float32]

# Sample questions whose contexts are compared with transformers, and passages of each.
COMPARED_QUESTIONS, COMPARED_PASSAGES = 2, 3
# Passages under which each sample question is answered in both precisions, and tokens of each answer.
ANSWERED_PASSAGES, ANSWER_TOKENS = 5, 12


def load_graphs(folder: Path, part: Seq2SeqGeneratorPart) -> tuple[Seq2SeqDecoder, Vision | None]:
    """The graphs of a folder."""
    decoder = Seq2SeqDecoder(Session(folder / part.encoder_graph), Session(folder / part.step_graph), part)
    vision = part.vision
    return decoder, None if vision is None else Vision(Session(folder / vision.graph), vision)


def check_seq2seq(
    generator: LoadedSeq2Seq, part: Seq2SeqGeneratorPart, folder: Path, precision: str
) -> dict[str, Any]:
    """Compare the graphs of a folder with transformers, and store the pairs beside them.

    Raises:
        ExportError: the difference is above the limit.
    """
    chain, expected, found = compare_seq2seq(generator, part, folder)
    figures = demand(folder / part.step_graph, differences(expected, found), precision)
    columns = np.arange(0, found.shape[1], max(1, found.shape[1] // STORED_COLUMNS))
    stored = to_store(expected, found, precision)
    store(folder / part.step_graph, {**chain.arrays(), "columns": columns, "logits": stored[:, columns]})
    return {
        **generator.origin,
        "inputs": {"rows": len(chain.contexts), "logits": len(found)},
        "same_best_token": float((found.argmax(1) == expected.argmax(1)).mean()),
        **report_figures(figures, precision),
    }


def compare_seq2seq(
    generator: LoadedSeq2Seq, part: Seq2SeqGeneratorPart, folder: Path
) -> tuple[Chain, Float, Float]:
    """(a chain of calls, transformers' logits, the graphs' logits); the logits float32 ``[logits, vocab]``."""
    chain = sample_chain(folder, part, questions=COMPARED_QUESTIONS, passages=COMPARED_PASSAGES)
    found = chain.run(lambda name: Session(folder / name), part)
    return chain, _logits_in_pytorch(generator.model, chain, part), found


def compare_precisions(reference: Path, lowered: Path, part: Seq2SeqGeneratorPart) -> dict[str, Any]:
    """How often graphs of another precision choose the tokens of the fp32 ones.

    Args:
        reference, lowered: the folders of both; ``tokenizer.json`` lies in the second.
        part: their entry in the manifest.

    Returns:
        As `rag_infer.export.agreement.compare_precisions`.
    """
    chain = sample_chain(lowered, part, questions=len(SAMPLES), passages=ANSWERED_PASSAGES)
    contexts = chain.rows()
    (first, first_vision), (second, second_vision) = (
        load_graphs(folder, part) for folder in (reference, lowered)
    )
    seen = see_pixels(first_vision, chain.pixel_values, len(contexts))
    seen_again = see_pixels(second_vision, chain.pixel_values, len(contexts))
    same = []
    for row, context in enumerate(contexts):
        alone = slice(row, row + 1)
        answer = _greedy(first, context, seen and seen.of_rows(alone), part)
        state = second.read([context], [1], seen=seen_again and seen_again.of_rows(alone))
        begun = np.array([[part.decoder_start_token_id, *answer[:-1]]], dtype=np.int64)
        best = second.teacher_force(state, begun)[0, 0].argmax(axis=1)
        same.append(best == np.array(answer))
    return {
        "token_agreement": round(float(np.concatenate(same).mean()), 4),
        "equal_answers": round(float(np.mean([s.all() for s in same])), 4),
        "prompts": len(contexts),
        "tokens": sum(map(len, same)),
    }


def sample_chain(folder: Path, part: Seq2SeqGeneratorPart, *, questions: int, passages: int) -> Chain:
    """Calls on contexts of the first sample questions, with images for a generator that sees.

    Args:
        folder: has ``tokenizer.json``.
        part: the generator's entry in the manifest.
        questions: how many.
        passages: of each.
    """
    contexts = sample_contexts(folder, part, passages)[: questions * passages]
    pixel_values = None
    if part.vision is not None:
        images = image_inputs(part.vision.processing)
        sources = np.arange(len(part.vision.sources))
        pixel_values = images[(np.arange(len(contexts))[:, None] + sources) % len(images)]
    counts = [passages] * questions
    return Chain.of(contexts, counts=counts, vocab_size=part.vocab_size, pixel_values=pixel_values)


def sample_contexts(folder: Path, part: Seq2SeqGeneratorPart, passages: int) -> list[tuple[int, ...]]:
    """Each sample question with its passage and with the next ones; without tokens where no text is read."""
    if part.vision is not None and not part.vision.reads_text:
        return [()] * (len(SAMPLES) * passages)
    composer = Seq2SeqComposer(Tokenizer(folder / "tokenizer.json"), part.composing)
    found = []
    for i, sample in enumerate(SAMPLES):
        near = [SAMPLES[(i + j) % len(SAMPLES)] for j in range(passages)]
        found += composer.compose(sample.question, [(s.title, s.text) for s in near])
    return [context.input_ids for context in found]


def _greedy(
    decoder: Seq2SeqDecoder, context: Sequence[int], seen: Seen | None, part: Seq2SeqGeneratorPart
) -> list[int]:
    state = decoder.read([context], [1], seen=seen)
    logits = decoder.start(state)
    found: list[int] = []
    parent = np.zeros((1, 1), dtype=np.int64)
    while True:
        found.append(int(logits[0, 0].argmax()))
        if len(found) == ANSWER_TOKENS or found[-1] in part.eos_token_ids:
            return found
        logits = decoder.step(state, parent, np.array([[found[-1]]], dtype=np.int64))


def _logits_in_pytorch(model: Any, chain: Chain, part: Seq2SeqGeneratorPart) -> Float:
    """The chain's logits by transformers, each sequence from its beginning, without a cache."""
    ids = torch.from_numpy(np.where(chain.contexts < 0, part.pad_token_id, chain.contexts))
    mask = torch.from_numpy((chain.contexts >= 0).astype(np.int64))
    pixels = None if chain.pixel_values is None else torch.from_numpy(chain.pixel_values)
    found = []
    with torch.no_grad():
        for row, tokens in chain.sequences(part.decoder_start_token_id):
            alone = slice(row, row + 1)
            seen = None if pixels is None else pixels[alone]
            logits = _forward(model, ids[alone], mask[alone], seen, torch.tensor([tokens]))
            found.append(logits[0, -1].numpy())
    return np.stack(found)


def _forward(model: Any, ids: Tensor, mask: Tensor, pixels: Tensor | None, tokens: Tensor) -> Tensor:
    """Logits by the model: float32 ``[rows, tokens, vocab]``."""
    if isinstance(model, VisionTextModel):
        assert pixels is not None
        seen: Tensor = model(
            input_ids=ids, attention_mask=mask, pixel_values=pixels, decoder_input_ids=tokens
        )
        return seen
    inputs = {"input_ids": ids, "attention_mask": mask} if pixels is None else {"pixel_values": pixels[:, 0]}
    logits: Tensor = model(**inputs, decoder_input_ids=tokens, use_cache=False).logits
    return logits
