"""Checkpoints to a bundle: load, write the graphs, prove them equal, and let the folder appear at once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rag_infer.bundle import MANIFEST, PRECISIONS, Bundle, Manifest, Part, record_files
from rag_infer.compose import ANSWER_RESERVE
from rag_infer.errors import ExportError
from rag_infer.export.causal import LoadedGenerator
from rag_infer.export.encoder_graph import write_encoder_graph
from rag_infer.export.folder import new_folder
from rag_infer.export.generator_writer import Loaded, check_room, load_any_generator, write_generator
from rag_infer.export.half_writer import halve_encoder, halve_image_encoder
from rag_infer.export.image_encoder import load_image_encoder, write_image_graph
from rag_infer.export.parity import check_encoder, check_image_encoder
from rag_infer.export.quantise import quantise_graph
from rag_infer.export.rag import load_rag
from rag_infer.export.text_encoder import EncoderOptions, LoadedEncoder, load_encoder
from rag_infer.parts import EncoderPart, GeneratorPart, ImageEncoderPart, PromptTemplate, RetrievalPart
from rag_infer.version import __version__

# Tokens a question must be able to have.
QUESTION_ROOM = 32
DEFAULT_N_DOCS = 5
# sentence-transformers trains with softmax(20 * cosine) (MultipleNegativesRankingLoss); DPR with the plain product.
COSINE_SCORE_SCALE, DOT_SCORE_SCALE = 20.0, 1.0

Source = str | Path


def export_bundle(
    out: str | Path,
    *,
    rag: Source | None = None,
    question_encoder: Source | None = None,
    passage_encoder: Source | None = None,
    text_encoder: Source | None = None,
    image_encoder: Source | None = None,
    generator: Source | None = None,
    precision: str = "fp32",
    force: bool = False,
    pooling: str | None = None,
    similarity: str | None = None,
    score_scale: float | None = None,
    n_docs: int | None = None,
    shared_space: bool | None = None,
    prompt: PromptTemplate | None = None,
    report: Callable[[str], None] | None = None,
) -> Bundle:
    """Export checkpoints into a bundle.

    Every graph is run against PyTorch on fixed inputs; the report is in ``bundle.manifest.parity``. The folder appears
    whole or not at all.

    Args:
        out: the bundle's folder.
        rag: folder or hub name of a checkpoint of transformers' RAG classes, in place of ``question_encoder`` and
            ``generator``.
        question_encoder: folder or hub name: sentence-transformers over BERT, BERT, or a DPR question encoder.
        passage_encoder: likewise, or a DPR context encoder; default: the question encoder, which then must not be
            DPR's. Equal to the question encoder it is stored once.
        text_encoder: in place of ``question_encoder`` and ``passage_encoder``; also the text tower of CLIP or SigLIP.
        image_encoder: folder or hub name of a CLIP, SigLIP, ViT or ResNet checkpoint.
        generator: folder, GGUF file or hub name of a Llama checkpoint, folder or hub name of a BART, mBART, T5, Pegasus
            or Marian checkpoint, or of one that sees: a VisionEncoderDecoder whose decoder is GPT-2, or a
            `rag_infer.export.vision_text.VisionTextModel`; None leaves the bundle without.
        precision: "fp32", "fp16" (weights, activations and caches of half the size, for GPUs; the CPU runs it, but no
            faster) or "int8" (weights and activations quantised dynamically).
        force: whether a bundle that stands at ``out`` is replaced.
        pooling: "mean", "cls" or "pooler", for plain BERT folders, which do not say; default "mean".
        similarity: "cosine" or "dot"; default: as the checkpoint says, else "dot".
        score_scale: factor on scores before the softmax; default 20 for cosine, 1 for dot.
        n_docs: passages retrieved by default; default: as ``rag`` says, else 5.
        shared_space: whether texts and images have vectors in one space; default: where text encoder and image encoder
            are one checkpoint.
        prompt: the generator's prompt; default `rag_infer.export.prompts.DEFAULT_PROMPT`.
        report: is given a line of text as each step begins.

    Raises:
        ExportError: a checkpoint is missing, unsupported, or does not fit its class; a graph differs from PyTorch
            by more than the limit; ``out`` stands and ``force`` is not given.
        ValueError: a precision, score_scale or n_docs that cannot be, or nothing to export.
    """
    _check_arguments(precision, score_scale, n_docs)
    sources = (rag, question_encoder, passage_encoder, text_encoder, image_encoder, generator)
    if all(source is None for source in sources):
        raise ValueError("nothing to export: give a RAG checkpoint, an encoder or a generator")
    if text_encoder is not None:
        if any(source is not None for source in (rag, question_encoder, passage_encoder)):
            raise ValueError("a text encoder reads questions and passages: give it or theirs, not both")
        question_encoder = text_encoder
    if rag is not None and (question_encoder is not None or generator is not None):
        raise ValueError("a RAG checkpoint holds question encoder and generator: give it or them, not both")
    tell = report or _silent
    with new_folder(Path(out), force=force) as folder:
        writer = _Writer(folder, precision, tell)
        options = EncoderOptions(pooling=pooling, similarity=similarity)
        if rag is not None:
            tell(f"loading the RAG checkpoint {Path(rag).name}")
            loaded = load_rag(rag)
            retrieval = writer.rag_encoders(loaded.question_encoder, rag, passage_encoder, options)
            writer.generator(loaded.generator, rag, prompt)
            n_docs = loaded.n_docs if n_docs is None else n_docs
        else:
            retrieval = writer.encoders(question_encoder, passage_encoder, options)
        if image_encoder is not None:
            retrieval = writer.images(image_encoder, retrieval, pooling=pooling, similarity=similarity)
        if generator is not None:
            tell(f"loading the generator {Path(generator).name}")
            writer.generator(load_any_generator(generator), generator, prompt)
        scale = score_scale
        if scale is None:
            scale = COSINE_SCORE_SCALE if retrieval == "cosine" else DOT_SCORE_SCALE
        count = DEFAULT_N_DOCS if n_docs is None else n_docs
        # The towers of one dual encoder were trained to be compared; others were not, of whatever width.
        together = text_encoder is not None and _absolute(str(text_encoder)) == _absolute(str(image_encoder))
        shared = writer.shared_space(together if shared_space is None else shared_space)
        writer.finish(
            RetrievalPart(similarity=retrieval, score_scale=scale, n_docs=count, shared_space=shared)
        )
    return Bundle.load(out, check="size")


class _Writer:
    """A bundle being written."""

    def __init__(self, folder: Path, precision: str, tell: Callable[[str], None]) -> None:
        self._folder = folder
        self._precision = precision
        self._tell = tell
        self._parts: dict[str, Part] = {}
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
        return self._encoders(loaded, sources)

    def rag_encoders(
        self, question: LoadedEncoder, source: Source, passage: Source | None, options: EncoderOptions
    ) -> str:
        """Export a RAG checkpoint's question encoder, and a passage encoder; returns their similarity."""
        loaded = {"question": question}
        if passage is not None:
            self._tell(f"loading the passage encoder {Path(passage).name}")
            loaded["passage"] = load_encoder(passage, "passage", options)
        return self._encoders(loaded, {"question": source, "passage": passage})

    def _encoders(self, loaded: dict[str, LoadedEncoder], sources: Mapping[str, Source | None]) -> str:
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
        figures = self._graph(partial(write_encoder_graph, encoder), graph, partial(halve_encoder, encoder))
        self._tell(f"comparing the {role} encoder with PyTorch")
        report = check_encoder(encoder, graph, self._precision)
        self._parts[name] = part
        self._parity[name] = {"source": _absolute(source), **report, **figures}

    def images(self, source: Source, retrieval: str, *, pooling: str | None, similarity: str | None) -> str:
        """Export an image encoder; returns the similarity of the bundle."""
        self._tell(f"loading the image encoder {Path(source).name}")
        texts = self._parts.get("question_encoder") or self._parts.get("passage_encoder")
        chosen = retrieval if texts is not None else similarity or "cosine"
        # Where there is a text encoder, pooling is said of that.
        encoder = load_image_encoder(
            source, pooling=None if texts is not None else pooling, normalise=chosen == "cosine"
        )
        self._tell("writing the image encoder's graph")
        part = encoder.part("image_encoder")
        folder = self._folder / part.path
        folder.mkdir()
        graph = folder / part.graph
        figures = self._graph(
            partial(write_image_graph, encoder), graph, partial(halve_image_encoder, encoder)
        )
        self._tell("comparing the image encoder with PyTorch")
        report = check_image_encoder(encoder, graph, self._precision)
        self._parts[part.path] = part
        self._parity[part.path] = {"source": _absolute(str(source)), **report, **figures}
        return chosen

    def shared_space(self, shared: bool) -> bool:
        """Whether texts and images may be compared.

        Raises:
            ValueError: they are said to be, and there are not both, or their vectors differ in width.
        """
        if not shared:
            return False
        text, image = self._parts.get("passage_encoder"), self._parts.get("image_encoder")
        if not isinstance(text, EncoderPart) or not isinstance(image, ImageEncoderPart):
            raise ValueError("a shared space is for a text encoder and an image encoder: give both")
        if text.dim != image.dim:
            raise ValueError(
                f"texts have vectors of {text.dim} dimensions and images of {image.dim}: that is no shared space"
            )
        return True

    def generator(self, loaded: Loaded, source: Source, prompt: PromptTemplate | None) -> None:
        """Export the generator."""
        if isinstance(loaded, LoadedGenerator):
            part: GeneratorPart = loaded.part("generator", prompt)
        elif prompt is not None:
            raise ValueError("a prompt is for decoder-only generators: this one is an encoder-decoder")
        else:
            part = loaded.part("generator")
        self._generation = loaded.generation()
        check_room(loaded, part, question=QUESTION_ROOM, answer=ANSWER_RESERVE)
        folder = self._folder / part.path
        folder.mkdir()
        report = write_generator(loaded, part, folder, self._precision, self._tell)
        self._parts["generator"] = part
        self._parity["generator"] = {"source": _absolute(str(source)), **report}

    def _graph(
        self, write: Callable[[Path], None], graph: Path, halve: Callable[[Path, Path], dict[str, Any]]
    ) -> dict[str, Any]:
        """Write an encoder's graph; returns what the report says of its precision."""
        if self._precision == "fp32":
            write(graph)
            return {}
        with self._reference(graph) as reference:
            write(reference)
            if self._precision == "fp16":
                return halve(reference, graph)
            quantise_graph(reference, graph)
        return {}

    @contextlib.contextmanager
    def _reference(self, graph: Path) -> Iterator[Path]:
        """Where the fp32 twin of a graph of another precision lies while both are needed."""
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


def _check_arguments(precision: str, score_scale: float | None, n_docs: int | None) -> None:
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}: expected {', '.join(PRECISIONS)}")
    if score_scale is not None and not 0 < score_scale < float("inf"):
        raise ValueError(f"score_scale must be a positive number, got {score_scale}")
    if n_docs is not None and n_docs < 1:
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


def _same(encoder: LoadedEncoder, twin: EncoderPart, origin: dict[str, Any], source: str) -> bool:
    """Whether an encoder's files would be those of the part that is written already."""
    same_settings = encoder.part(twin.path) == replace(twin, prefix=encoder.prefix)
    return same_settings and origin.get("source") == _absolute(source)


def _absolute(source: str) -> str:
    """Where `rag-infer verify` may find the checkpoint again: an absolute path, or a hub name."""
    path = Path(source).expanduser()
    return str(path.resolve()) if path.exists() else source
