"""Question and passage to generator input, as the bundle's prompt says."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from rag_infer.bundle import Bundle
from rag_infer.errors import BundleError, RagInferWarning
from rag_infer.parts import CausalGeneratorPart, ComposingRule, Seq2SeqGeneratorPart
from rag_infer.text import Tokenizer, clean

# Of the positions the model has, what is always left to the answer when a question is cut.
ANSWER_RESERVE = 64


class CausalContext(NamedTuple):
    """One prompt of a decoder-only generator after its preamble: a piece of the passage's, one of the question's."""

    passage_ids: tuple[int, ...]
    question_ids: tuple[int, ...]


class Seq2SeqContext(NamedTuple):
    """One context of an encoder-decoder, special tokens included."""

    input_ids: tuple[int, ...]


Context = CausalContext | Seq2SeqContext


class Composer(Protocol):
    """Composes a generator's contexts.

    Attributes:
        preamble_ids: tokens before every context.
    """

    preamble_ids: tuple[int, ...]

    def compose(
        self, question: str, passages: Sequence[tuple[str, str]], *, compat: str | None = None
    ) -> Sequence[Context]:
        """The contexts of one question with each of its passages, (title, text); ``compat``: see `GenerationConfig`."""
        ...


def new_composer(bundle: Bundle, tokenizer: Tokenizer) -> Composer:
    """The composer of a bundle's generator, whose tokenizer is given."""
    part = bundle.manifest.generator
    if isinstance(part, Seq2SeqGeneratorPart):
        encoder = bundle.manifest.question_encoder
        if not part.composing.decoded_question:
            return Seq2SeqComposer(tokenizer, part.composing)
        if encoder is None:
            raise BundleError(f"{bundle.folder} composes with its question encoder's tokenizer, and has none")
        return Seq2SeqComposer(
            tokenizer, part.composing, Tokenizer(bundle.file(encoder, "tokenizer.json")), encoder.max_length
        )
    assert part is not None
    return CausalComposer(tokenizer, part)


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

    def compose(
        self, question: str, passages: Sequence[tuple[str, str]], *, compat: str | None = None
    ) -> list[CausalContext]:
        """The prompts of one question with each of its passages.

        Args:
            question: the question's text.
            passages: (title, text) of each passage.
            compat: changes nothing: transformers has no such prompts.
        """
        del compat
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


class Seq2SeqComposer:
    """Composes the contexts of an encoder-decoder, as transformers' `RagRetriever.postprocess_docs`.

    A context too long is cut at the end of its passage, so that the question stays, and special tokens written
    inside a title, text or question are defused. transformers cuts at the end of the whole and reads special tokens,
    which ``compat`` does too.

    Args:
        tokenizer: the generator's.
        rule: how the pieces are joined.
        question_tokenizer: the question encoder's, where the question is read back from its tokens.
        max_question_length: tokens the question encoder keeps, special tokens included.
    """

    preamble_ids: tuple[int, ...] = ()

    def __init__(
        self,
        tokenizer: Tokenizer,
        rule: ComposingRule,
        question_tokenizer: Tokenizer | None = None,
        max_question_length: int = 512,
    ) -> None:
        self._tokenizer = tokenizer
        self._rule = rule
        self._question_tokenizer = question_tokenizer
        self._max_question_length = max_question_length

    def compose(
        self, question: str, passages: Sequence[tuple[str, str]], *, compat: str | None = None
    ) -> list[Seq2SeqContext]:
        """The contexts of one question with each of its passages.

        Args:
            question: the question's text.
            passages: (title, text) of each passage.
            compat: as in `GenerationConfig`.
        """
        question = self._as_trained(question)
        if compat is not None:
            limit = self._rule.max_combined_length
            return [Seq2SeqContext(self._encode(t, x, question, max_length=limit)) for t, x in passages]
        defuse = self._tokenizer.defuse
        return [
            Seq2SeqContext(self._context(defuse(clean(title)), defuse(clean(text)), defuse(clean(question))))
            for title, text in passages
        ]

    def _as_trained(self, question: str) -> str:
        tokenizer = self._question_tokenizer
        if tokenizer is None:
            return question
        ids = tokenizer.encode_text(question, max_length=self._max_question_length)
        return clean_up_spaces(tokenizer.decode(ids))

    def _context(self, title: str, text: str, question: str) -> tuple[int, ...]:
        limit = self._rule.max_combined_length
        ids = self._encode(title, text, question)
        if len(ids) <= limit:
            return ids
        # What joins the pieces may take a token more or less once the passage is shorter.
        keep = len(self._tokenizer.encode(text)) - (len(ids) - limit)
        while len(ids) > limit and keep > 0:
            ids = self._encode(title, self._tokenizer.cut(text, keep), question)
            keep -= max(1, len(ids) - limit)
        if len(ids) > limit:
            ids = self._encode("", "", question, max_length=limit)
        return ids

    def _encode(
        self, title: str, text: str, question: str, *, max_length: int | None = None
    ) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode_text(self.joined(title, text, question), max_length=max_length))

    def joined(self, title: str, text: str, question: str) -> str:
        """The context's text."""
        rule = self._rule
        title = title.removeprefix('"').removesuffix('"')
        whole = rule.prefix + title + rule.title_sep + text + rule.doc_sep + question
        return whole.replace("  ", " ")


def clean_up_spaces(text: str) -> str:
    """Text without the spaces that word pieces leave, as transformers' ``clean_up_tokenization`` (4.57)."""
    for spaced, joined in ((" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't")):
        text = text.replace(spaced, joined)
    for ending in ("'m", "'s", "'ve", "'re"):
        text = text.replace(" " + ending, ending)
    return text


def _fill(template: str, values: dict[str, str]) -> str:
    """The template with its placeholders replaced; braces inside the values stay what they are."""
    return re.sub(r"\{(\w+)\}", lambda m: values.get(m[1], m[0]), template)
