"""The default prompt: instructions and two worked examples, which a small model needs to answer shortly.

Plain text, also for models that were tuned on a chat's markup: SmolLM2-135M-Instruct copies long pieces of the
passage when asked in its own markup, and answers with a few words here.
"""

from __future__ import annotations

from typing import Any

from rag_infer.parts import PromptTemplate

DEFAULT_PROMPT = PromptTemplate(
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

# `rag_infer.export.causal.LoadedGenerator.generation` adds what an answer may not begin with.
GENERATION: dict[str, Any] = {
    "strategy": "rag-token",
    "num_beams": 1,
    "max_new_tokens": 32,
    "stop_strings": ["\n"],
}
