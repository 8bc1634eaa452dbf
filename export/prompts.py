"""Default prompts. A small model needs worked examples to answer shortly; larger ones are not hurt by them."""

from __future__ import annotations

import tokenizers

from rag_infer.bundle import PromptTemplate

CHATML = PromptTemplate(
    preamble=(
        "<|im_start|>system\nAnswer the question with a few words taken from the passage.<|im_end|>\n"
        "<|im_start|>user\nPassage: The Amazon River flows through South America. It is about 6,400 km long.\n"
        "Question: How long is the Amazon River?<|im_end|>\n"
        "<|im_start|>assistant\nabout 6,400 km<|im_end|>\n"
        "<|im_start|>user\nPassage: Marie Curie was a physicist born in Warsaw in 1867. She won two Nobel Prizes.\n"
        "Question: Where was Marie Curie born?<|im_end|>\n"
        "<|im_start|>assistant\nWarsaw<|im_end|>\n"
        "<|im_start|>user\nPassage: "
    ),
    passage="{title}: {text}\n",
    question="Question: {question}<|im_end|>\n<|im_start|>assistant\n",
)

PLAIN = PromptTemplate(
    preamble=(
        "Answer each question with a few words taken from the passage.\n\n"
        "Passage: The Amazon River flows through South America. It is about 6,400 km long.\n"
        "Question: How long is the Amazon River?\nAnswer: about 6,400 km\n\n"
        "Passage: Marie Curie was a physicist born in Warsaw in 1867. She won two Nobel Prizes.\n"
        "Question: Where was Marie Curie born?\nAnswer: Warsaw\n\n"
        "Passage: "
    ),
    passage="{title}: {text}\n",
    question="Question: {question}\nAnswer:",
)

GENERATION = {"strategy": "rag-token", "num_beams": 1, "max_new_tokens": 32, "stop_strings": ["\n"]}


def default_prompt(tokenizer: tokenizers.Tokenizer) -> PromptTemplate:
    """ChatML where the tokenizer has its two special tokens, plain text elsewhere."""
    chat = all(tokenizer.token_to_id(t) is not None for t in ("<|im_start|>", "<|im_end|>"))
    return CHATML if chat else PLAIN
