"""Checkpoints to a bundle: load, write the graphs, prove them equal, and let the folder appear at once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from rag_infer.bundle import (
    MANIFEST,
    Bundle,
    CausalGeneratorPart,
    EncoderPart,
    Manifest,
    PromptTemplate,
    RetrievalPart,
    record_files,
)
from rag_infer.compose import ANSWER_RESERVE
from rag_infer.errors import ExportError
from rag_infer.export.agreement import check_greedy, compare_precisions
from rag_infer.export.causal import LoadedGenerator, load_generator, write_decoder_graph
from rag_infer.export.encoder_graph import write_encoder_graph
from rag_infer.export.families.llama import FLOAT32_WEIGHTS
from rag_infer.export.folder import new_folder
from rag_infer.export.parity import check_encoder, check_generator
from rag_infer.export.quantise import quantise_graph
from rag_infer.export.text_encoder import EncoderOptions, LoadedEncoder, load_encoder
from rag_infer.version import __version__

# Tokens a question must be able to have.
QUESTION_ROOM = 32
PRECISIONS = ("fp32", "int8")
# sentence-transformers trains with softmax(20 * cosine) (MultipleNegativesRankingLoss); DPR with the plain product.
COSINE_SCORE_SCALE, DOT_SCORE_SCALE = 20.0, 1.0

Source = str | Path


def export_bundle(
    out: str | Path,
    *,
    question_encoder: Source | None = None,
    passage_encoder: Source | None = None,
    generator: Source | None = None,
    precision: str = "fp32",
    force: bool = False,
    pooling: str | None = None,
    similarity: str | None = None,
    score_scale: float | None = None,
    n_docs: int = 5,
    prompt: PromptTemplate | None = None,
    report: Callable[[str], None] | None = None,
) -> Bundle:
    """Export checkpoints into a bundle.

    Every graph is run against PyTorch on fixed inputs; the report is in ``bundle.manifest.parity``. The folder appears
    whole or not at all.

    Args:
        out: the bundle's folder.
        question_encoder: folder or hub name: sentence-transformers over BERT, BERT, or a DPR question encoder.
        passage_encoder: likewise, or a DPR context encoder; default: the question encoder, which then must not be
            DPR's. Equal to the question encoder it is stored once.
        generator: folder, GGUF file or hub name of a Llama checkpoint; None leaves the bundle without.
        precision: "fp32" or "int8" (weights and activations quantised dynamically).
        force: whether a bundle that stands at ``out`` is replaced.
        pooling: "mean", "cls" or "pooler", for plain BERT folders, which do not say; default "mean".
        similarity: "cosine" or "dot"; default: as the checkpoint says, else "dot".
        score_scale: factor on scores before the softmax; default 20 for cosine, 1 for dot.
        n_docs: passages retrieved by default.
        prompt: the generator's prompt; default `rag_infer.export.prompts.DEFAULT_PROMPT`.
        report: is given a line of text as each step begins.

    Raises:
        ExportError: a checkpoint is missing, unsupported, or does not fit its class; a graph differs from PyTorch
            by more than the limit; ``out`` stands and ``force`` is not given.
        ValueError: a precision, score_scale or n_docs that cannot be, or nothing to export.
    """
    _check_arguments(precision, score_scale, n_docs)
    if question_encoder is None and passage_encoder is None and generator is None:
        raise ValueError("nothing to export: give a question encoder, a passage encoder or a generator")
    tell = report or _silent
    with new_folder(Path(out), force=force) as folder:
        writer = _Writer(folder, precision, tell)
        options = EncoderOptions(pooling=pooling, similarity=similarity)
        retrieval = writer.encoders(question_encoder, passage_encoder, options)
        if generator is not None:
            writer.generator(generator, prompt)
        scale = score_scale
        if scale is None:
            scale = COSINE_SCORE_SCALE if retrieval == "cosine" else DOT_SCORE_SCALE
        writer.finish(RetrievalPart(similarity=retrieval, score_scale=scale, n_docs=n_docs))
    return Bundle.load(out, check="size")


class _Writer:
    """A bundle being written."""

    def __init__(self, folder: Path, precision: str, tell: Callable[[str], None]) -> None:
        self._folder = folder
        self._precision = precision
        self._tell = tell
        self._parts: dict[str, EncoderPart | CausalGeneratorPart] = {}
        self._parity: dict[str, Any] = {}
        self._generation: dict[str, Any] = {}

    def encoders(self, question: Source | None, passage: Source | None, options: EncoderOptions) -> str:
        """Export one or both encoders; returns their similarity."""
        sources = {"question": question, "passage": passage if passage is not None else question}
        loaded: dict[str, LoadedEncoder] = {}
        for role, source in sources.items():
            if source is not None:
                self._tell(f"loading the {role} encoder {Path(source).name}")
                loaded[role] = load_encoder(source, role, options)
        if len(loaded) == 2:
            _check_pair(loaded["question"], loaded["passage"])
        for role, encoder in loaded.items():
            self._encoder(role, encoder, str(sources[role]))
        return next((encoder.similarity for encoder in loaded.values()), "dot")

    def _encoder(self, role: str, encoder: LoadedEncoder, source: str) -> None:
        name = f"{role}_encoder"
        twin = self._parts.get("question_encoder")
        origin = self._parity.get("question_encoder", {})
        if isinstance(twin, EncoderPart) and _same(encoder, twin, origin, source):
            self._parts[name] = replace(twin, prefix=encoder.prefix)
            self._parity[name] = origin
            return
        self._tell(f"writing the {role} encoder's graph")
        part = encoder.part(name)
        folder = self._folder / name
        folder.mkdir()
        encoder.tokenizer.save(str(folder / "tokenizer.json"))
        graph = folder / part.graph
        self._encoder_graph(encoder, graph)
        self._tell(f"comparing the {role} encoder with PyTorch")
        report = check_encoder(encoder, graph, self._precision)
        self._parts[name] = part
        self._parity[name] = {"source": _absolute(source), **report}

    def generator(self, source: Source, prompt: PromptTemplate | None) -> None:
        """Export the generator."""
        self._tell(f"loading the generator {Path(source).name}")
        loaded = load_generator(source)
        part = loaded.part("generator", prompt)
        self._generation = loaded.generation()
        _check_room(loaded, part)
        folder = self._folder / part.path
        folder.mkdir()
        loaded.tokenizer.save(str(folder / "tokenizer.json"))
        graph = folder / part.graph
        self._tell("writing the generator's graph")
        tokens = (
            self._quantised(loaded, part, graph) if self._quantises else self._float32(loaded, part, graph)
        )
        self._tell("comparing the generator with PyTorch")
        self._parts["generator"] = part
        self._parity["generator"] = {
            "source": _absolute(str(source)),
            **check_generator(loaded, part, graph, self._precision),
            **tokens,
        }

    def _float32(self, loaded: LoadedGenerator, part: CausalGeneratorPart, graph: Path) -> dict[str, Any]:
        """Write the generator's graph; returns how its tokens compare with transformers'."""
        write_decoder_graph(loaded.model, graph)
        return {"greedy_tokens_of_transformers": check_greedy(loaded, part, graph)}

    def _quantised(self, loaded: LoadedGenerator, part: CausalGeneratorPart, graph: Path) -> dict[str, Any]:
        """Write the generator's graph, quantised; returns how its tokens compare with the fp32 graph's."""
        with self._reference(graph) as reference:
            write_decoder_graph(loaded.model, reference)
            self._tell("quantising the generator")
            quantise_graph(reference, graph, keep=FLOAT32_WEIGHTS)
            self._tell("comparing the generator's tokens with fp32")
            agreement = compare_precisions(reference, graph, part)
        return {"agreement_with_fp32": agreement}

    def _encoder_graph(self, encoder: LoadedEncoder, graph: Path) -> None:
        if not self._quantises:
            write_encoder_graph(encoder, graph)
            return
        with self._reference(graph) as reference:
            write_encoder_graph(encoder, reference)
            quantise_graph(reference, graph)

    @property
    def _quantises(self) -> bool:
        return self._precision != "fp32"

    @contextlib.contextmanager
    def _reference(self, graph: Path) -> Iterator[Path]:
        """Where the fp32 twin of a quantised graph lies while both are needed."""
        path = graph.with_name("fp32." + graph.name)
        yield path
        for written in (path, path.with_name(path.name + ".data")):
            written.unlink()

    def finish(self, retrieval: RetrievalPart) -> None:
        """Write the manifest, last of all."""
        manifest = Manifest(
            created_by=f"rag_infer {__version__}",
            precision=self._precision,
            retrieval=retrieval,
            generation=self._generation,
            parity=self._parity,
            files=record_files(self._folder),
            **self._parts,  # type: ignore[arg-type]
        )
        (self._folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")


def _silent(line: str) -> None:
    del line


def _check_arguments(precision: str, score_scale: float | None, n_docs: int) -> None:
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}: expected {', '.join(PRECISIONS)}")
    if score_scale is not None and not 0 < score_scale < float("inf"):
        raise ValueError(f"score_scale must be a positive number, got {score_scale}")
    if n_docs < 1:
        raise ValueError(f"n_docs must be at least 1, got {n_docs}")


def _check_pair(question: LoadedEncoder, passage: LoadedEncoder) -> None:
    """Refuse encoders whose vectors cannot be compared."""
    if question.dim != passage.dim:
        raise ExportError(
            f"the question encoder's vectors have {question.dim} dimensions, the passage encoder's {passage.dim}"
        )
    if question.similarity != passage.similarity:
        raise ExportError(
            f"the question encoder asks for {question.similarity} similarity, the passage encoder for "
            f"{passage.similarity}: give similarity"
        )


def _check_room(loaded: LoadedGenerator, part: CausalGeneratorPart) -> None:
    """Refuse a prompt that leaves the model no positions for a question and its answer."""
    around = sum(len(loaded.tokenizer.encode(t).ids) for t in (part.prompt.preamble, part.prompt.question))
    taken = around + part.prompt.max_passage_tokens + QUESTION_ROOM + ANSWER_RESERVE
    if taken > part.max_positions:
        raise ExportError(
            f"the generator has {part.max_positions} positions, but the prompt with a passage takes {taken}: "
            "give a shorter prompt, or one with fewer max_passage_tokens"
        )


def _same(encoder: LoadedEncoder, twin: EncoderPart, origin: dict[str, Any], source: str) -> bool:
    """Whether an encoder's files would be those of the part that is written already."""
    same_settings = encoder.part(twin.path) == replace(twin, prefix=encoder.prefix)
    return same_settings and origin.get("source") == _absolute(source)


def _absolute(source: str) -> str:
    """Where `rag-infer verify` may find the checkpoint again: an absolute path, or a hub name."""
    path = Path(source).expanduser()
    return str(path.resolve()) if path.exists() else source
