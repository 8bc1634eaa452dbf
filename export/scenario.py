"""The fixed inputs on which graphs are compared with PyTorch."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import tokenizers
from numpy.typing import NDArray

from rag_infer.images.processing import prepare_all
from rag_infer.parts import CausalGeneratorPart, ImageProcessing
from rag_infer.text import pad
from rag_infer.verify import DecoderCall

# Of unequal length, one longer than any encoder reads, one empty; other alphabets and unknown characters too.
TEXTS = (
    "Who built the Eiffel Tower?",
    "Penicillin was discovered by Alexander Fleming in 1928 at St Mary's Hospital in London.",
    "",
    "Größe, naïve façade — 東京 и Москва, 3.14159!",
    "The Nile is a river in Africa. " * 90,
    "photosynthesis",
)
# Prompts in two pieces, of unequal length in both.
PROMPTS = (
    ("The Danube rises in Germany, flows through ten countries and ends in the Black Sea.", " It ends in"),
    ("Gold has the symbol Au.", " Its atomic number is one of those that children learn by heart:"),
)
BEAMS = 3
# Which beam of the step before each beam goes on from: crossing, one dropped, one doubled.
PARENTS = ((0, 0, 0), (2, 0, 0))


def encoder_inputs(tokenizer: tokenizers.Tokenizer, max_length: int) -> dict[str, NDArray[np.int64]]:
    """``input_ids`` and ``attention_mask`` of `TEXTS`, special tokens included, cut as the runtime cuts."""
    rows = []
    for text in TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=True).ids
        # The runtime keeps the closing special token.
        rows.append(ids if len(ids) <= max_length else [*ids[: max_length - 1], ids[-1]])
    ids, mask = pad(rows, pad_id=0)
    return {"input_ids": ids, "attention_mask": mask}


def image_inputs(processing: ImageProcessing) -> NDArray[np.float32]:
    """Noisy waves of several shapes, as an encoder reads them: float32 ``[images, 3, height, width]``."""
    draw = np.random.default_rng(0)
    images = []
    for height, width in ((60, 80), (90, 40), (64, 64)):
        rows, columns = np.mgrid[0:height, 0:width]
        waves = np.stack([np.sin(rows / 9), np.cos(columns / 7), np.sin((rows + columns) / 5)], axis=-1)
        noise = draw.integers(-40, 40, waves.shape)
        images.append(np.clip(waves * 90 + 128 + noise, 0, 255).astype(np.uint8))
    return prepare_all(images, processing)


@dataclass
class DecoderScenario:
    """A chain of calls of a decoder graph, and what each of its logits predicts after.

    Attributes:
        calls: the chain.
        sequences: for every logit, in order, the tokens it stands behind.
    """

    calls: list[DecoderCall] = field(default_factory=list)
    sequences: list[list[int]] = field(default_factory=list)


def decoder_scenario(tokenizer: tokenizers.Tokenizer, part: CausalGeneratorPart) -> DecoderScenario:
    """Two prompts read in two pieces each, padded, then two steps of three beams with crossing parents."""
    scenario = DecoderScenario()
    texts: list[list[int]] = [[] for _ in PROMPTS]
    seen = np.zeros((len(PROMPTS), 0), dtype=bool)
    for piece in range(2):
        rows = [tokenizer.encode(p[piece], add_special_tokens=False).ids for p in PROMPTS]
        seen = _add_piece(scenario, texts, rows, seen, part.pad_token_id)
    slots = np.repeat(seen[:, None, :], BEAMS, axis=1)
    beams = [[list(text) for _ in range(BEAMS)] for text in texts]
    for step, parents in enumerate(PARENTS):
        tokens = (np.arange(len(PROMPTS) * BEAMS).reshape(-1, BEAMS) * 31 + 7 * step + 11) % part.vocab_size
        beams = [
            [[*row[p], int(t)] for p, t in zip(parents, new, strict=True)]
            for row, new in zip(beams, tokens, strict=True)
        ]
        slots = _add_step(scenario, beams, tokens, slots[:, list(parents)])
    return scenario


def _add_piece(
    scenario: DecoderScenario,
    texts: list[list[int]],
    rows: list[list[int]],
    seen: NDArray[np.bool_],
    pad_id: int,
) -> NDArray[np.bool_]:
    """Append a call that reads a piece; returns which slots hold tokens afterwards, bool ``[rows, slots]``."""
    ids, mask = pad(rows, pad_id)
    width = ids.shape[1]
    lengths = np.array([len(t) for t in texts])
    causal = np.tril(np.ones((width, width), dtype=bool)) & mask.astype(bool)[:, None, :]
    new = causal | np.eye(width, dtype=bool)
    past = np.broadcast_to(seen[:, None, :], (len(rows), width, seen.shape[1]))
    last = mask.sum(axis=1, keepdims=True) - 1
    positions = lengths[:, None] + np.arange(width)
    scenario.calls.append(DecoderCall(ids, positions, np.concatenate([past, new], axis=2), last))
    for text, row in zip(texts, rows, strict=True):
        text += row
        scenario.sequences.append(list(text))
    return np.concatenate([seen, mask.astype(bool)], axis=1)


def _add_step(
    scenario: DecoderScenario,
    beams: list[list[list[int]]],
    tokens: NDArray[np.int64],
    slots: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Append a call of one token per beam; returns which slots each beam sees, bool ``[rows, beams, slots]``."""
    rows, count = tokens.shape
    alone = np.broadcast_to(np.eye(count, dtype=bool), (rows, count, count))
    visible = np.concatenate([slots, alone], axis=2)
    positions = np.array([[len(b) - 1 for b in row] for row in beams])
    outputs = np.tile(np.arange(count), (rows, 1))
    scenario.calls.append(DecoderCall(tokens, positions, visible, outputs))
    scenario.sequences += [list(b) for row in beams for b in row]
    return visible
