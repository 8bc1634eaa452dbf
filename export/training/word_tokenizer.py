"""A tokenizer of whole words, for the small vocabularies of small data sets."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

# The end is not 2: CLIP takes a text tower with that number for one of old, which looked for the highest number.
PADDING, BEGIN, UNKNOWN, END = "<pad>", "<s>", "<unk>", "</s>"
SPECIAL = (PADDING, BEGIN, UNKNOWN, END)
PADDING_ID, BEGIN_ID, UNKNOWN_ID, END_ID = range(4)


def word_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Reads the words and marks of ``texts`` in small letters, each text between a beginning and an end.

    >>> tokenizer = word_tokenizer(["Is it red?"])
    >>> tokenizer("is it blue")["input_ids"]
    [1, 5, 6, 2, 3]
    """
    normalizer, splitter = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    words = {w for t in texts for w, _ in splitter.pre_tokenize_str(normalizer.normalize_str(t))}
    vocabulary = {word: i for i, word in enumerate((*SPECIAL, *sorted(words)))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A {END}", special_tokens=[(BEGIN, BEGIN_ID), (END, END_ID)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PADDING, bos_token=BEGIN, unk_token=UNKNOWN, eos_token=END
    )
