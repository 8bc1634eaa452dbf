"""Question and passage to generator input, as the bundle's prompt says."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from rag_infer.bundle import CausalGeneratorPart
from rag_infer.errors import RagInferWarning
from rag_infer.text import Tokenizer, clean

# Of the positions the model has, what is always left to the answer when a question is cut.
ANSWER_RESERVE = 64


@dataclass(frozen=True)
class CausalContext:
    """One prompt of a decoder-only generator after its preamble: a piece of the passage's, one of the question's."""

    passage_ids: tuple[int, ...]
    question_ids: tuple[int, ...]


class CausalComposer:
    """Composes the prompts of a decoder-only generator.

    The pieces are tokenised apart: the passage piece is the same whatever the question. Special tokens written
    inside a title, text or question are defused, so that none can end its turn. A passage too long is cut at
    the end of its text; a question to the prompt's ``max_question_tokens``, or to the positions the model has left
    for it, with a warning.
    """

    def __init__(self, tokenizer: Tokenizer, part: CausalGeneratorPart) -> None:
        self._tokenizer = tokenizer
        self._prompt = part.prompt
        self._max_positions = part.max_positions
        bos = [] if part.bos_token_id is None else [part.bos_token_id]
        ids = tokenizer.encode(part.prompt.preamble)
        self.preamble_ids: tuple[int, ...] = tuple(ids if ids[:1] == bos else [*bos, *ids])

    def compose(self, question: str, passages: Sequence[tuple[str, str]]) -> list[CausalContext]:
        """The prompts of one question with each of its passages.

        Args:
            question: the question's text.
            passages: (title, text) of each passage.
        """
        question_ids = self._question(question)
        return [CausalContext(self._passage(title, text), question_ids) for title, text in passages]

    def _passage(self, title: str, text: str) -> tuple[int, ...]:
        defuse, limit = self._tokenizer.defuse, self._prompt.max_passage_tokens
        title = self._tokenizer.cut(defuse(clean(title)), limit // 4)
        text = defuse(clean(text))
        ids = self._tokenizer.encode(_fill(self._prompt.passage, {"title": title, "text": text}))
        if len(ids) > limit:
            around = len(self._tokenizer.encode(_fill(self._prompt.passage, {"title": title, "text": ""})))
            text = self._tokenizer.cut(text, max(0, limit - around))
            ids = self._tokenizer.encode(_fill(self._prompt.passage, {"title": title, "text": text}))
        return tuple(ids)

    def _question(self, question: str) -> tuple[int, ...]:
        question = self._tokenizer.defuse(clean(question))
        around = len(self._tokenizer.encode(_fill(self._prompt.question, {"question": ""})))
        taken = len(self.preamble_ids) + self._prompt.max_passage_tokens + around + ANSWER_RESERVE
        room = max(0, min(self._prompt.max_question_tokens, self._max_positions - taken))
        shortened = self._tokenizer.cut(question, room)
        if shortened != question:
            message = f"a question of {len(question)} characters was cut to {room} tokens for the generator"
            warnings.warn(message, RagInferWarning, stacklevel=4)
        return tuple(self._tokenizer.encode(_fill(self._prompt.question, {"question": shortened})))


def _fill(template: str, values: dict[str, str]) -> str:
    """The template with its placeholders replaced; braces inside the values stay what they are."""
    return re.sub(r"\{(\w+)\}", lambda m: values.get(m[1], m[0]), template)
