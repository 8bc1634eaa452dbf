"""Marian's tokenizer as a ``tokenizer.json``: transformers has only a slow form, two SentencePiece models and a list.

The list numbers the pieces of both languages. Contexts are in the source language, so pieces that only the target's
model has must be written out and never be read: in the file they carry a mark that no text has.
"""

from __future__ import annotations

from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, processors
from transformers.convert_slow_tokenizer import SpmConverter

# A private-use character.
TARGET_MARK = "\ue0f1"
# SentencePiece's kinds of pieces: normal and user-defined ones are found in texts.
FOUND_IN_TEXT = (1, 4)
# How far SentencePiece puts the unknown below the least likely piece.
UNKNOWN_PENALTY = 10.0


def outside(name: str, lowest: float) -> tuple[str, float]:
    """A piece that only the target has, with its score.

    A letter that the source's model does not know is looked up in the list as it is: it keeps its name, and its score
    is what SentencePiece gives the unknown.
    """
    return (name, lowest - UNKNOWN_PENALTY) if len(name) == 1 else (TARGET_MARK + name, lowest)


class MarianConverter(SpmConverter):  # type: ignore[misc]
    """Converts a `transformers.MarianTokenizer` whose languages share a list.

    Two differences are left. Pieces of the source's model that the list lacks cannot be numbered: transformers reads
    them as unknown, here what they consist of is read. And several letters in a row that the source does not know are
    one unknown there, here each is looked up.
    """

    def __init__(self, slow: Any) -> None:
        slow.vocab_file = slow.spm_files[0]
        super().__init__(slow)

    def tokenizer(self, proto: Any) -> tokenizers.Tokenizer:
        """The model alone."""
        slow = self.original_tokenizer
        scores = {p.piece: p.score for p in proto.pieces if p.type in FOUND_IN_TEXT}
        lowest = min(scores.values())
        names = sorted(slow.encoder, key=slow.encoder.get)
        pieces = [(n, scores[n]) if n in scores else outside(n, lowest) for n in names]
        special = [slow.unk_token, slow.eos_token, slow.pad_token, *slow.supported_language_codes]
        for name in special:
            pieces[slow.encoder[name]] = (name, 0.0)
        made = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=slow.encoder[slow.unk_token]))
        made.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special])
        return made

    def post_processor(self) -> Any:
        """The end of text comes last."""
        slow = self.original_tokenizer
        end = slow.eos_token
        return processors.TemplateProcessing(single=f"$A {end}", special_tokens=[(end, slow.encoder[end])])

    def decoder(self, replacement: str, add_prefix_space: bool) -> Any:
        """Without the mark."""
        usual = super().decoder(replacement, add_prefix_space)
        return decoders.Sequence([decoders.Replace(TARGET_MARK, ""), usual])
