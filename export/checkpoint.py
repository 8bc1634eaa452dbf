"""Where a checkpoint lies, and loading it with nothing missing and nothing left over."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rag_infer.bundle import sha256_of
from rag_infer.errors import ExportError
from rag_infer.export.tracing import quiet_transformers

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".gguf")


@dataclass(frozen=True)
class Harmless:
    """Keys that may be left over in a checkpoint, and why that loses nothing."""

    pattern: str
    reason: str


POSITION_IDS = Harmless(r"(.*\.)?embeddings\.position_ids", "a buffer that counts 0, 1, 2, ...")
TRAINING_HEAD = Harmless(r"cls\..*", "heads of masked language modelling, which an encoder does not have")
UNUSED_POOLER = Harmless(r"(.*\.)?pooler\..*", "the pooler is not used under this pooling")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was found.

    Attributes:
        source: what `from_pretrained` takes: a folder or a hub name.
        folder: the folder, or None for a hub name.
        gguf: the GGUF file, where it is one.
    """

    source: str
    folder: Path | None = None
    gguf: Path | None = None

    @property
    def name(self) -> str:
        """The last part of the path or hub name: what a bundle may say about its origin."""
        return (self.gguf or self.folder or Path(self.source)).name

    def weights_sha256(self) -> str | None:
        """One sha256 over the weight files, or None for a hub name."""
        if self.folder is None:
            return None
        files = [self.gguf] if self.gguf else sorted(_weight_files(self.folder))
        if len(files) == 1:
            return sha256_of(files[0])
        return hashlib.sha256("".join(sha256_of(f) for f in files).encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """What the manifest says about the origin; no machine's paths."""
        return {"checkpoint": self.name, "weights_sha256": self.weights_sha256()}


def find_checkpoint(source: str | Path) -> Checkpoint:
    """A local folder, a GGUF file (or a folder that holds one and no config.json), or a hub name.

    Raises:
        ExportError: a path that does not exist, or a folder without a model.
    """
    path = Path(source).expanduser()
    if path.is_file() and path.suffix == ".gguf":
        return Checkpoint(str(path.parent), path.parent, path)
    if path.is_dir():
        if (path / "config.json").exists() or (path / "modules.json").exists():
            return Checkpoint(str(path), path)
        files = sorted(path.glob("*.gguf"))
        if len(files) == 1:
            return Checkpoint(str(path), path, files[0])
        found = f"{len(files)} GGUF files" if files else "no config.json"
        raise ExportError(f"{path} is not a checkpoint: it has {found}")
    if path.exists() or _looks_like_a_path(str(source)):
        raise ExportError(f"no checkpoint at {source}: expected a model's folder or a .gguf file")
    return Checkpoint(str(source))


def read_config(checkpoint: Checkpoint) -> Any:
    """The checkpoint's transformers config.

    Raises:
        ExportError: there is none, or it cannot be read.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(checkpoint.source)
    except Exception as error:  # transformers and the hub raise many kinds
        raise ExportError(f"{checkpoint.source} has no readable config: {_line(error)}") from error


def load_complete(
    kind: Any,
    source: str | None,
    *,
    harmless: Sequence[Harmless] = (),
    unused: Sequence[Harmless] = (),
    **settings: Any,
) -> tuple[Any, dict[str, str]]:
    """``kind.from_pretrained``, in float32, failing where a key is missing, left over or of another shape.

    Args:
        kind: the exact class; an auto class would hide a wrong one.
        source: a folder or hub name, or None where ``settings`` gives the weights.
        harmless: keys that may be left over.
        unused: keys that may be missing.
        settings: for `from_pretrained`.

    Returns:
        The model in evaluation mode, and the left-over keys with the reason each is harmless.

    Raises:
        ExportError: it cannot be loaded, or not completely; the message names the keys.
    """
    import torch

    try:
        with quiet_transformers():  # it warns of left-over keys; here they are looked at
            model, info = kind.from_pretrained(
                source,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # so that the keys are told, which are refused below
                dtype=torch.float32,
                attn_implementation="eager",
                **settings,
            )
    except Exception as error:  # transformers, safetensors and the hub raise many kinds
        raise ExportError(
            f"{source or kind.__name__} cannot be loaded as {kind.__name__}: {_line(error)}"
        ) from error
    explained, unexplained = _explain(info.get("unexpected_keys") or (), harmless)
    problems: Mapping[str, Iterable[Any]] = {
        "missing": _explain(info.get("missing_keys") or (), unused)[1],
        "left over": unexplained,
        "of another shape": [m if isinstance(m, str) else m[0] for m in info.get("mismatched_keys") or ()],
        "errors": info.get("error_msgs") or (),
    }
    found = "; ".join(f"{what}: {_some(sorted(keys))}" for what, keys in problems.items() if keys)
    if found:
        raise ExportError(f"{source or kind.__name__} does not fit {kind.__name__} ({found}): not exported")
    return model.eval(), explained


def _explain(keys: Iterable[str], harmless: Sequence[Harmless]) -> tuple[dict[str, str], list[str]]:
    explained, unexplained = {}, []
    for key in keys:
        reason = next((h.reason for h in harmless if re.fullmatch(h.pattern, key)), None)
        if reason is None:
            unexplained.append(key)
        else:
            explained[key] = reason
    return explained, unexplained


def _weight_files(folder: Path) -> list[Path]:
    return [p for p in folder.iterdir() if p.suffix in WEIGHT_SUFFIXES and p.is_file()]


def _looks_like_a_path(source: str) -> bool:
    if source.startswith((".", "/", "~")) or source.count("/") > 1 or "\\" in source:
        return True
    return source.endswith((".gguf", "/")) or ("/" in source and Path(source).parent.is_dir())


def _some(names: Sequence[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text[:300] or type(error).__name__
