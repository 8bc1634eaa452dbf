"""An encoder-decoder's contexts, images and then text, as the graph that reads them takes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag_infer._arrays import check_contexts, check_scores
from rag_infer.errors import GenerationError
from rag_infer.generate.vision import Seen
from rag_infer.parts import GeneratorPart, Seq2SeqGeneratorPart
from rag_infer.text import bucket, pad

Float = NDArray[np.float32]


@dataclass(frozen=True)
class ContextInputs:
    """What is read of a batch of contexts.

    Attributes:
        inputs: of the graph, by name.
        bias: float32 ``[rows, places]``, 0 where a context has something, minus infinity elsewhere.
        token_widths: how many tokens of each row hold all that it has.
        image_places: places before the first token.
    """

    inputs: dict[str, NDArray[Any]]
    bias: Float
    token_widths: tuple[int, ...]
    image_places: int

    def alone(self) -> Iterator[dict[str, NDArray[Any]]]:
        """The inputs of each row, as narrow as it is."""
        for row, width in enumerate(self.token_widths):
            ends = {"input_ids": width, "attention_bias": self.image_places + width, "image_features": None}
            yield {name: x[row : row + 1, : ends[name]] for name, x in self.inputs.items()}


def context_inputs(
    contexts: Sequence[Sequence[int]], part: Seq2SeqGeneratorPart, seen: Seen | None
) -> ContextInputs:
    """The inputs for contexts.

    Args:
        contexts: token ids of each; not looked at where the generator reads no text.
        part: the generator's entry in the manifest.
        seen: what they see, for a generator that sees.

    Raises:
        GenerationError: a context is longer than the model's positions.
    """
    if part.vision is not None and not part.vision.reads_text:
        assert seen is not None
        features, bias = seen.by_context()
        return ContextInputs({"image_features": features}, bias, (0,) * len(bias), bias.shape[1])
    before = part.vision.context_places if part.vision is not None else 0
    room = None if part.max_positions is None else part.max_positions - before
    _check_length(max(map(len, contexts)), room, part, before)
    ids, mask = pad(contexts, part.pad_token_id)
    if room is not None:  # a bucket may be wider than the table of positions
        ids, mask = ids[:, :room], mask[:, :room]
    bias = np.where(mask.astype(bool), np.float32(0), np.float32(-np.inf))
    inputs: dict[str, NDArray[Any]] = {"input_ids": np.ascontiguousarray(ids)}
    if seen is not None:
        inputs["image_features"], image_bias = seen.by_context()
        bias = np.concatenate([image_bias, bias], axis=1)
    inputs["attention_bias"] = bias
    widths = tuple(min(bucket(len(context)), ids.shape[1]) for context in contexts)
    return ContextInputs(inputs, bias, widths, before)


def given_rows(
    input_ids: NDArray[np.int64] | None,
    attention_mask: NDArray[np.int64] | None,
    doc_scores: Float,
    part: GeneratorPart,
) -> list[tuple[int, ...]]:
    """The tokens of each context as `Generator.generate_from_contexts` takes them; none where no text is read.

    Raises:
        TypeError, ValueError: as `rag_infer._arrays.check_contexts`; tokens for a generator that reads no text, or
            none for one that does.
    """
    vision = part.vision if isinstance(part, Seq2SeqGeneratorPart) else None
    if vision is not None and not vision.reads_text:
        if input_ids is not None or attention_mask is not None:
            raise ValueError(
                "this generator reads images and no text: give None for context_input_ids and their mask"
            )
        return [()] * check_scores(doc_scores)
    if input_ids is None or attention_mask is None:
        raise ValueError("this generator reads text: give context_input_ids and context_attention_mask")
    return check_contexts(input_ids, attention_mask, doc_scores, vocab_size=part.vocab_size)


def stack(parts: Sequence[Float], width: int, *, axis: int) -> Float:
    """Arrays of one row each as one array, zeros behind those that are shorter along ``axis``."""
    shape = list(parts[0].shape)
    shape[0], shape[axis] = len(parts), width
    stacked = np.zeros(shape, dtype=parts[0].dtype)
    for i, part in enumerate(parts):
        place = [slice(None)] * 4
        place[0], place[axis] = slice(i, i + 1), slice(0, part.shape[axis])
        stacked[tuple(place)] = part
    return stacked


def _check_length(longest: int, room: int | None, part: Seq2SeqGeneratorPart, before: int) -> None:
    if room is None or longest <= room:
        return
    images = f" and {before} places of images" if before else ""
    raise GenerationError(
        f"a context of {longest} tokens{images} is above the model's {part.max_positions} positions"
    )
