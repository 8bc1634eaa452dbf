"""Checking a bundle where it is: its files' sha256, and stored inputs whose outputs are known.

Needs no PyTorch: the outputs were computed by PyTorch (fp32, fp16) or by the quantised graph itself (int8) when the
bundle was exported. `rag_infer.export.reverify` compares with the original checkpoint, where that is at hand.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag_infer.bundle import Bundle, Manifest, Part
from rag_infer.errors import BundleError
from rag_infer.parts import CausalGeneratorPart, EncoderPart, ImageEncoderPart, Seq2SeqGeneratorPart
from rag_infer.session import Session
from rag_infer.verify_seq2seq import Chain

CHECK_FILE = "check.npz"
PARTS = ("question_encoder", "passage_encoder", "image_encoder", "generator")

Float = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of a verification.

    Attributes:
        name: what was checked: "files" or a part.
        against: what it was compared with: "sha256", "stored outputs" or "PyTorch".
        passed: whether it is as it should be.
        figures: what was measured, by name.
        limits: the most each figure may be.
    """

    name: str
    against: str
    passed: bool
    figures: Mapping[str, float]
    limits: Mapping[str, float]


@dataclass(frozen=True)
class DecoderCall:
    """One run of a decoder graph in a chain, in which each sees what the earlier ones wrote.

    Attributes:
        input_ids, position_ids: int64 ``[rows, queries]``.
        visible: bool ``[rows, queries, slots + queries]``; slots are the queries of all earlier calls, in order.
        logit_positions: int64 ``[rows, outputs]``.
    """

    input_ids: NDArray[np.int64]
    position_ids: NDArray[np.int64]
    visible: NDArray[np.bool_]
    logit_positions: NDArray[np.int64]


def verify_bundle(folder: str | Path, *, threads: int | None = None) -> list[Check]:
    """Check a bundle's files and run its stored pairs.

    Args:
        folder: the bundle.
        threads: threads of the graphs; default: the processors this process may run on.

    Raises:
        BundleError: a file is missing or altered, or a part has no stored pairs.
    """
    bundle = Bundle.load(folder)
    parts = distinct_parts(bundle.manifest)
    return [check_files(bundle), *(check_part(bundle, name, part, threads=threads) for name, part in parts)]


def distinct_parts(manifest: Manifest) -> list[tuple[str, Part]]:
    """(name, part) of each part, without those that have the files of one before."""
    found: dict[str, tuple[str, Part]] = {}
    for name in PARTS:
        part = getattr(manifest, name)
        if part is not None:
            found.setdefault(part.path, (name, part))
    return list(found.values())


def check_files(bundle: Bundle) -> Check:
    """What `Bundle.load` has done: it does not return otherwise."""
    count = len(bundle.manifest.files)
    return Check(name="files", against="sha256", passed=True, figures={"files": count}, limits={})


def check_part(bundle: Bundle, name: str, part: Part, *, threads: int | None = None) -> Check:
    """Run a part's stored pairs against the limits in the manifest's parity report."""
    path = bundle.file(part, CHECK_FILE)
    pairs = _read_pairs(path)
    limits = bundle.manifest.parity.get(name, {}).get("limits")
    if not isinstance(limits, Mapping) or not limits:
        raise BundleError(f"{bundle.folder}: parity.{name} has no limits: export again")

    def session(name: str) -> Session:
        return Session(bundle.file(part, name), threads=threads)

    try:
        figures = differences(*_stored_and_found(session, part, pairs))
    except (KeyError, ValueError, IndexError) as error:
        raise BundleError(f"{path} does not fit the graph ({error}): export again") from None
    return Check(
        name=name,
        against="stored outputs",
        passed=within(figures, limits),
        figures=figures,
        limits=dict(limits),
    )


def _stored_and_found(
    session: Callable[[str], Session], part: Part, pairs: Mapping[str, NDArray[Any]]
) -> tuple[Float, Float]:
    """What the graphs should give for the stored inputs, and what they give: float32 ``[rows, width]``."""
    if isinstance(part, EncoderPart):
        return pairs["embedding"], run_encoder(session(part.graph), pairs)
    if isinstance(part, ImageEncoderPart):
        return pairs["embedding"], run_image_encoder(session(part.graph), pairs)
    columns = pairs["columns"]
    if isinstance(part, Seq2SeqGeneratorPart):
        return pairs["logits"], Chain.stored(pairs).run(session, part)[:, columns]
    calls = list(stored_calls(pairs))
    results = replay(session(part.graph), calls, part)
    stored = [pairs[f"logits_{i}"].reshape(-1, len(columns)) for i in range(len(calls))]
    return np.concatenate(stored), np.concatenate(
        [r[..., columns].reshape(-1, len(columns)) for r in results]
    )


def within(figures: Mapping[str, float], limits: Mapping[str, float]) -> bool:
    """Whether every limited figure is a number and not above its limit."""
    return all(figures.get(name, math.nan) <= limit for name, limit in limits.items())


def differences(expected: NDArray[Any], found: NDArray[Any]) -> dict[str, float]:
    """How far rows are from what they should be.

    Args:
        expected, found: float ``[rows, width]``.

    Returns:
        max_difference: the largest absolute difference over the largest absolute expected value;
        cosine_difference: 1 - cos of the angle between the rows, of the worst row.
    """
    a, b = expected.astype(np.float64), found.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine = (a * b).sum(axis=1) / np.maximum(lengths, np.finfo(np.float64).tiny)
    return {
        "max_difference": float(np.abs(a - b).max() / max(np.abs(a).max(), np.finfo(np.float64).tiny)),
        "cosine_difference": float(np.maximum(0.0, (1 - cosine).max())),
    }


def run_encoder(session: Session, inputs: Mapping[str, NDArray[Any]]) -> Float:
    """The embeddings of padded token ids: float32 ``[texts, dim]``."""
    names = ("input_ids", "attention_mask")
    embedding: Float = session.run({n: inputs[n] for n in names}, ["embedding"])[0]
    return embedding


def run_image_encoder(session: Session, inputs: Mapping[str, NDArray[Any]]) -> Float:
    """The embeddings of prepared images: float32 ``[images, dim]``."""
    pixels = inputs["pixel_values"].astype(session.dtype("pixel_values"), copy=False)
    embedding: Float = session.run({"pixel_values": pixels}, ["embedding"])[0]
    return embedding.astype(np.float32, copy=False)


def replay(session: Session, calls: list[DecoderCall], part: CausalGeneratorPart) -> list[Float]:
    """Run a chain of calls; returns the logits of each, float32 ``[rows, outputs, vocab]``."""
    rows = len(calls[0].input_ids)
    shape = (part.num_layers, 2, rows, part.num_kv_heads, 0, part.head_dim)
    past = np.zeros(shape, dtype=session.dtype("past_keys_0"))
    results = []
    for call in calls:
        inputs: dict[str, NDArray[Any]] = {
            "input_ids": call.input_ids,
            "position_ids": call.position_ids,
            "attention_bias": np.where(call.visible, np.float32(0), np.float32(-np.inf)),
            "logit_positions": call.logit_positions,
        }
        for layer in range(part.num_layers):
            inputs[f"past_keys_{layer}"], inputs[f"past_values_{layer}"] = past[layer]
        logits, new = session.run(inputs, ["logits", "new_keys_values"])
        past = np.concatenate([past, new], axis=4)
        results.append(logits)
    return results


def stored_calls(pairs: Mapping[str, NDArray[Any]]) -> Iterator[DecoderCall]:
    """The calls in a generator's check file."""
    for i in range(sum(name.startswith("input_ids_") for name in pairs)):
        yield DecoderCall(
            pairs[f"input_ids_{i}"],
            pairs[f"position_ids_{i}"],
            pairs[f"visible_{i}"],
            pairs[f"logit_positions_{i}"],
        )


def _read_pairs(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except FileNotFoundError:
        raise BundleError(f"{path} is missing: the bundle has no stored pairs; export again") from None
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise BundleError(f"{path} cannot be read: {error}") from None
