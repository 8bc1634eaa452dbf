"""A checkpoint's generation settings as the bundle keeps them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import transformers

from rag_infer.errors import ExportError
from rag_infer.generate.config import GenerationConfig

# Settings of transformers that change answers and that rag_infer does not have.
UNSUPPORTED = (
    *(
        "min_new_tokens",
        "suppress_tokens",
        "sequence_bias",
        "encoder_no_repeat_ngram_size",
        "min_p",
        "typical_p",
    ),
    *(
        "num_beam_groups",
        "diversity_penalty",
        "penalty_alpha",
        "encoder_repetition_penalty",
        "guidance_scale",
    ),
    *("epsilon_cutoff", "eta_cutoff", "exponential_decay_length_penalty", "renormalize_logits"),
)
# What says nothing unless answers are drawn.
SAMPLING = ("temperature", "top_k", "top_p")


def generation_settings(config: Any) -> dict[str, Any]:
    """What a transformers GenerationConfig sets otherwise than `GenerationConfig` does by default.

    Raises:
        ExportError: settings that rag_infer does not have, or refuses.
    """
    unset, defaults = transformers.GenerationConfig(), GenerationConfig()
    others = [n for n in UNSUPPORTED if getattr(config, n, None) not in (None, getattr(unset, n, None))]
    if others:
        raise ExportError(
            f"the checkpoint's generation settings have {', '.join(others)}, which rag_infer does not have: answers "
            "would differ. Take it out of generation_config.json, or of config.json"
        )
    found: dict[str, Any] = {}
    for name in (field.name for field in fields(GenerationConfig)):
        value = getattr(config, name, None)
        if value is not None and value not in (getattr(unset, name, None), getattr(defaults, name)):
            found[name] = _plain(name, value)
    if not found.get("do_sample"):
        found = {name: value for name, value in found.items() if name not in SAMPLING}
    return checked_settings(found)


def checked_settings(found: dict[str, Any]) -> dict[str, Any]:
    """Settings that `GenerationConfig` takes.

    Raises:
        ExportError: it does not.
    """
    try:
        GenerationConfig().updated(found)
    except (TypeError, ValueError) as error:
        raise ExportError(f"the checkpoint's generation settings cannot be kept: {error}") from None
    return found


def _plain(name: str, value: Any) -> Any:
    """Values that transformers takes in more than one form, in ours."""
    if name == "stop_strings" and isinstance(value, str):
        return [value]
    if name in ("forced_bos_token_id", "forced_eos_token_id") and isinstance(value, list) and len(value) == 1:
        return value[0]
    return value
