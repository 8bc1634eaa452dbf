"""When a sequence is complete: end of text, or a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from rag_infer.generate.search import Stop
from rag_infer.text import Tokenizer


def stop_condition(tokenizer: Tokenizer, eos_token_ids: Sequence[int], stop_strings: Sequence[str]) -> Stop:
    """A test of whether a sequence of tokens is complete.

    Args:
        tokenizer: turns tokens into the text that stop strings are looked for in.
        eos_token_ids: any of them ends a sequence.
        stop_strings: so does any of these, anywhere in the generated text.
    """
    ends = frozenset(eos_token_ids)
    # A token has at least one byte, so a stop string that has just appeared lies within this many tokens.
    window = max((len(s.encode()) for s in stop_strings), default=0) + 1

    def complete(tokens: Sequence[int]) -> bool:
        if tokens[-1] in ends:
            return True
        if not stop_strings:
            return False
        text = tokenizer.decode(tokens[-window:])
        return any(s in text for s in stop_strings)

    return complete
