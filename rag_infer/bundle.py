"""The model bundle on disk: what is in ``bundle.json``, and the check that the files are those it names.

A bundle is a folder that `rag_infer.export` writes once and the runtime only reads::

    bundle.json                  everything below, as JSON
    question_encoder/            model.onnx  model.onnx.data  tokenizer.json  check.npz
    passage_encoder/             likewise (or the same files as the question encoder)
    generator/                   decoder.onnx  decoder.onnx.data  tokenizer.json  check.npz
                                 (encoder-decoder: encoder.onnx  step.onnx  generator.data  tokenizer.json  check.npz,
                                 and vision.onnx if it sees)
                                 and for devices append.onnx  keep.onnx  head.onnx

``check.npz`` holds inputs and outputs for `rag_infer.verify`. ``manifest_sha256`` in ``bundle.json`` is over all its
other entries, so that no setting is altered unseen.

Unknown keys are errors: a bundle that asks for something this version does not know is not half obeyed.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from rag_infer.errors import BundleError, DeviceError
from rag_infer.parts import (
    CausalGeneratorPart,
    ComposingRule,
    EncoderPart,
    GeneratorPart,
    GeneratorVision,
    ImageEncoderPart,
    ImageProcessing,
    PromptTemplate,
    RetrievalPart,
    Seq2SeqGeneratorPart,
)

FORMAT_VERSION = 1
MANIFEST = "bundle.json"
SEAL = "manifest_sha256"
PRECISIONS = ("fp32", "fp16", "int8")

Part = EncoderPart | ImageEncoderPart | GeneratorPart

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """Size in bytes and sha256 (hexadecimal) of one file of the bundle."""

    sha256: str
    size: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The contents of ``bundle.json``.

    Attributes:
        format_version: this version reads formats up to `FORMAT_VERSION`.
        created_by: name and version of the exporting program.
        precision: one of `PRECISIONS`.
        question_encoder, passage_encoder, image_encoder, generator: the parts, or None where the bundle lacks one.
        retrieval: how scores become priors.
        generation: defaults of `GenerationConfig` for this bundle, by name.
        parity: the export's report, graph by graph.
        files: every other file of the bundle by its path inside it.
    """

    format_version: int = FORMAT_VERSION
    created_by: str
    precision: str
    question_encoder: EncoderPart | None = None
    passage_encoder: EncoderPart | None = None
    image_encoder: ImageEncoderPart | None = None
    generator: GeneratorPart | None = None
    retrieval: RetrievalPart = field(default_factory=RetrievalPart)
    generation: dict[str, Any] = field(default_factory=dict)
    parity: dict[str, Any] = field(default_factory=dict)
    files: dict[str, FileRecord] = field(default_factory=dict)

    def to_json(self) -> str:
        """The text of ``bundle.json``."""
        return json.dumps(sealed(asdict(self)), indent=2, ensure_ascii=False) + "\n"


@dataclass(frozen=True)
class Bundle:
    """A loaded and checked bundle: its folder and its manifest."""

    folder: Path
    manifest: Manifest

    def file(self, part: Part, name: str) -> Path:
        """Path of file ``name`` of a part."""
        return self.folder / part.path / name

    def fingerprint(self, part: Part) -> str:
        """A sha256 over a part's settings and its files: equal exactly when it computes the same.

        Folder names do not count, so the same encoder in two places has one fingerprint.
        """
        settings = {k: v for k, v in asdict(part).items() if k != "path"}
        prefix = part.path + "/"
        files = sorted(
            (name.removeprefix(prefix), record.sha256)
            for name, record in self.manifest.files.items()
            if name.startswith(prefix)
        )
        return hashlib.sha256(json.dumps([settings, files], sort_keys=True).encode()).hexdigest()

    @classmethod
    def load(cls, folder: str | Path, *, check: str = "full") -> Bundle:
        """Read ``bundle.json`` and check the files against it.

        Args:
            folder: the bundle.
            check: "full" compares sha256 of every file, "graphs" of all but the weights (see `check_weights`), "size"
                only sizes.

        Raises:
            BundleError: no such bundle, a newer format, an unknown key, a missing or altered file; the
                message names the file and what was expected.
        """
        folder = Path(folder)
        if check not in ("full", "graphs", "size"):
            raise ValueError(f"check must be 'full', 'graphs' or 'size', not {check!r}")
        data = _read_manifest(folder)
        seal = data.pop(SEAL, None)
        manifest = _parse_manifest(data, folder / MANIFEST)
        contents = {name for name in manifest.files if check == "full" or not _is_weights(name)}
        _check_files(folder, manifest.files, contents=contents if check != "size" else set())
        # Last of all: what is wrong with a part is told by its name.
        if seal != sealed(data)[SEAL]:
            raise BundleError(
                f"{folder / MANIFEST} does not have the sha256 it names ({seal}): altered; export again"
            )
        return cls(folder, manifest)

    def check_device(self, device: str) -> None:
        """Refuse a device that this bundle would not run on: ONNX Runtime would quietly compute on the CPU instead.

        Raises:
            DeviceError: int8 and not the CPU.
        """
        if self.manifest.precision == "int8" and device != "cpu":
            raise DeviceError(
                f"device {device!r} asked for, but {self.folder} is int8, whose products only the CPU has: export the "
                "checkpoint with --precision fp16"
            )

    def check_weights(self) -> None:
        """Compare the sha256 of the weights, which "graphs" left out: ONNX Runtime maps them, and can meanwhile load.

        Raises:
            BundleError: a file is missing or altered.
        """
        weights = {name: record for name, record in self.manifest.files.items() if _is_weights(name)}
        _check_files(self.folder, weights, contents=set(weights))


def _is_weights(name: str) -> bool:
    """Whether a file holds numbers and nothing that is parsed."""
    return name.endswith(".data")


def sealed(data: dict[str, Any]) -> dict[str, Any]:
    """A manifest with the sha256 of all its other entries, written as JSON with sorted keys and without spaces."""
    body = {k: v for k, v in data.items() if k != SEAL}
    text = json.dumps(body, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return {**body, SEAL: hashlib.sha256(text.encode()).hexdigest()}


def sha256_of(path: Path) -> str:
    """Hexadecimal sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def record_files(folder: Path) -> dict[str, FileRecord]:
    """Size and sha256 of every file under ``folder`` but the manifest, by path inside it."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    return {
        p.relative_to(folder).as_posix(): FileRecord(sha256=sha256_of(p), size=p.stat().st_size)
        for p in paths
    }


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise BundleError(
            f"no bundle at {folder}: {path} does not exist (make one with 'rag-infer export')"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{path} is not valid JSON: {error}") from None
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error}") from None
    if not isinstance(data, dict) or not isinstance(data.get("format_version"), int):
        raise BundleError(f"{path} has no integer format_version: not a rag_infer bundle")
    if data["format_version"] > FORMAT_VERSION:
        raise BundleError(
            f"{path} has format_version {data['format_version']}, "
            f"this rag_infer reads up to {FORMAT_VERSION}: upgrade it"
        )
    return data


def _parse_manifest(data: dict[str, Any], path: Path) -> Manifest:
    data = dict(data)
    for name in ("question_encoder", "passage_encoder"):
        if data.get(name) is not None:
            data[name] = _build(EncoderPart, data[name], f"{path}: {name}")
    if data.get("image_encoder") is not None:
        data["image_encoder"] = _build_image_encoder(data["image_encoder"], f"{path}: image_encoder")
    if data.get("generator") is not None:
        data["generator"] = _build_generator(data["generator"], f"{path}: generator")
    data["retrieval"] = _build(RetrievalPart, data.get("retrieval", {}), f"{path}: retrieval")
    files = data.get("files", {})
    if not isinstance(files, dict):
        raise BundleError(f"{path}: files must be an object, found {type(files).__name__}")
    data["files"] = {
        name: _build(FileRecord, entry, f"{path}: files[{name!r}]") for name, entry in files.items()
    }
    return _build(Manifest, data, str(path))


def _build_image_encoder(data: Any, where: str) -> ImageEncoderPart:
    return _build(ImageEncoderPart, _with_processing(data, where), where)


def _build_vision(data: Any, where: str) -> GeneratorVision:
    vision = _build(GeneratorVision, _with_processing(data, where), where)
    known = (("question",), ("passage",), ("question", "passage"))
    if vision.sources not in known or vision.places < 1:
        raise BundleError(f"{where}: sources {vision.sources} with {vision.places} places cannot be")
    return vision


def _with_processing(data: Any, where: str) -> dict[str, Any]:
    """An entry with its lists as tuples and its ``processing`` built."""
    if not isinstance(data, dict):
        raise BundleError(f"{where} must be an object, found {type(data).__name__}")
    processing = data.get("processing")
    if isinstance(processing, dict):
        processing = _tuples(processing)
    return {**_tuples(data), "processing": _build(ImageProcessing, processing, f"{where}.processing")}


def _tuples(data: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}


def _build_generator(data: Any, where: str) -> GeneratorPart:
    if not isinstance(data, dict) or data.get("kind") not in ("causal", "seq2seq"):
        kind = data.get("kind") if isinstance(data, dict) else data
        raise BundleError(f"{where}: kind is {kind!r}, this version knows 'causal' and 'seq2seq'")
    data = dict(data)
    if isinstance(data.get("eos_token_ids"), list):
        data["eos_token_ids"] = tuple(data["eos_token_ids"])
    if data["kind"] == "causal":
        data["prompt"] = _build(PromptTemplate, data.get("prompt"), f"{where}.prompt")
        return _build(CausalGeneratorPart, data, where)
    data["composing"] = _build(ComposingRule, data.get("composing"), f"{where}.composing")
    if data.get("vision") is not None:
        data["vision"] = _build_vision(data["vision"], f"{where}.vision")
    return _build(Seq2SeqGeneratorPart, data, where)


def _build(kind: type[T], data: Any, where: str) -> T:
    """A dataclass from a JSON object; unknown and missing keys are errors that name them."""
    if not isinstance(data, Mapping):
        raise BundleError(f"{where} must be an object, found {type(data).__name__}")
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(data) - known)
    if unknown:
        raise BundleError(f"{where} has the unknown key {unknown[0]!r}: expected {', '.join(sorted(known))}")
    for name, hint in get_type_hints(kind).items():
        if name in data and not _fits(data[name], hint):
            raise BundleError(f"{where}: {name} cannot be {data[name]!r}")
    try:
        return kind(**data)
    except TypeError as error:
        raise BundleError(f"{where}: {error}") from None


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a field's type; an int is a float, a bool is no int."""
    origin = get_origin(hint)
    if origin is UnionType:
        return any(_fits(value, choice) for choice in get_args(hint))
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(v, get_args(hint)[0]) for v in value)
    kind = origin or hint
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    if kind is float:
        return isinstance(value, int | float) and math.isfinite(value)
    return isinstance(value, kind)


def _check_files(folder: Path, files: Mapping[str, FileRecord], *, contents: Collection[str]) -> None:
    """Sizes of all, and sha256 of those named in ``contents``."""

    def check(item: tuple[str, FileRecord]) -> None:
        name, record = item
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise BundleError(f"{folder / MANIFEST}: files names {name!r}, outside the bundle")
        if not path.is_file():
            raise BundleError(f"{path} is missing: expected {record.size} bytes with sha256 {record.sha256}")
        size = path.stat().st_size
        if size != record.size:
            raise BundleError(
                f"{path} has {size} bytes, expected {record.size}: altered or cut short; export again"
            )
        if name in contents and (found := sha256_of(path)) != record.sha256:
            raise BundleError(f"{path} has sha256 {found}, expected {record.sha256}: altered; export again")

    # hashlib releases the GIL, so two threads hash two files at once.
    with ThreadPoolExecutor(max_workers=4) as pool:
        list(pool.map(check, sorted(files.items(), key=lambda item: -item[1].size)))
