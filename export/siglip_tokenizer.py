"""SigLIP's tokenizer as a ``tokenizer.json``: transformers has only a slow form, a SentencePiece model and a rule.

Before the model: small letters, no ASCII punctuation, single spaces, and a space in front (Zhai et al. 2023 follow
big_vision's ``canonicalize_text``).
"""

from __future__ import annotations

import re
import string
from typing import Any

from tokenizers import Regex, normalizers, pre_tokenizers, processors
from transformers.convert_slow_tokenizer import SpmConverter

SPACE = "▁"  # as SentencePiece writes it


class SiglipConverter(SpmConverter):  # type: ignore[misc]
    """Converts a `transformers.SiglipTokenizer`; one difference is left: special tokens written out in a text."""

    def normalizer(self, proto: Any) -> Any:
        """What the tokenizer does to a text, and then what the SentencePiece model does."""
        steps = [normalizers.Replace(SPACE, " "), normalizers.Prepend(SPACE)]
        if self.original_tokenizer.do_lower_case:
            steps.append(normalizers.Lowercase())
        steps.append(normalizers.Replace(Regex(f"[{re.escape(string.punctuation)}]"), ""))
        steps.append(normalizers.Replace(Regex(r"\s+"), " "))
        steps.append(normalizers.Strip(left=False, right=True))
        steps.append(normalizers.Replace(Regex(f"^{SPACE}$"), ""))  # nothing was left of the text
        charsmap = proto.normalizer_spec.precompiled_charsmap
        if charsmap:
            steps.append(normalizers.Precompiled(charsmap))
        return normalizers.Sequence([*steps, normalizers.Replace(Regex(" {2,}"), " ")])

    def pre_tokenizer(self, replacement: str, add_prefix_space: bool) -> Any:
        """Spaces as the model writes them; the one in front is there already."""
        del add_prefix_space
        return pre_tokenizers.Metaspace(replacement=replacement, prepend_scheme="never")

    def post_processor(self) -> Any:
        """The end of text comes last."""
        end = self.original_tokenizer.eos_token
        number = self.original_tokenizer.convert_tokens_to_ids(end)
        return processors.TemplateProcessing(single=f"$A {end}", special_tokens=[(end, number)])
