"""What ``bundle.json`` says about each part of a bundle."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class EncoderPart:
    """A text encoder: a graph from ``input_ids`` and ``attention_mask`` to ``embedding``.

    The graph pools, projects and normalises by itself; ``pooling`` and ``normalise`` record how.

    Attributes:
        path: folder inside the bundle that holds ``graph`` and ``tokenizer.json``.
        graph: file name of the ONNX graph; output ``embedding`` is float32 ``[texts, dim]``.
        dim: width of the vectors.
        pooling: "mean", "cls" or "pooler".
        normalise: whether the vectors have Euclidean length 1.
        max_length: tokens kept per text, special tokens included.
        prefix: text put before every text (such as "query: "), or "".
    """

    path: str
    graph: str = "model.onnx"
    dim: int
    pooling: str
    normalise: bool
    max_length: int
    prefix: str = ""


@dataclass(frozen=True, kw_only=True)
class ImageProcessing:
    """How pixels become an image encoder's input: resized, cropped, scaled, normalised (`rag_infer.images.processing`).

    Attributes:
        resize: "exact" to ``height`` x ``width``, "shortest_edge" to where the shorter side has ``shortest_edge``
            pixels, or "none".
        height, width: of the result.
        shortest_edge: see ``resize``; 0 where it does not count.
        resample: "nearest", "box", "bilinear", "hamming", "bicubic" or "lanczos".
        scale: factor on values from 0 to 255.
        mean, std: of each channel, subtracted and divided by after scaling; empty for none.
    """

    resize: str
    height: int
    width: int
    shortest_edge: int = 0
    resample: str = "bicubic"
    scale: float = 1 / 255
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ImageEncoderPart:
    """An image encoder: a graph from ``pixel_values`` to ``embedding``, which pools and projects by itself.

    Attributes:
        path: folder inside the bundle that holds ``graph``.
        graph: file name of the ONNX graph; ``pixel_values`` is float32 ``[images, 3, height, width]``, the output
            ``embedding`` float32 ``[images, dim]``.
        dim: width of the vectors.
        pooling: "projection" (CLIP), "attention" (SigLIP), "cls" or "mean" (ViT), "average" (ResNet).
        normalise: whether the vectors have Euclidean length 1.
        processing: how images become ``pixel_values``.
    """

    path: str
    graph: str = "model.onnx"
    dim: int
    pooling: str
    normalise: bool
    processing: ImageProcessing


@dataclass(frozen=True, kw_only=True)
class RetrievalPart:
    """How scores become priors: p(z|x) = softmax(score_scale * score) over the retrieved passages.

    Attributes:
        similarity: "dot" or "cosine".
        score_scale: factor on the score; 1.0 for DPR, above 1 for models trained with a temperature.
        n_docs: passages retrieved when the caller does not say.
        shared_space: whether texts and images have vectors in one space, as those of CLIP do.
    """

    similarity: str = "dot"
    score_scale: float = 1.0
    n_docs: int = 5
    shared_space: bool = False


@dataclass(frozen=True, kw_only=True)
class PromptTemplate:
    """A causal generator's prompt: three pieces, tokenised apart and concatenated.

    The passage piece comes before the question and does not see it, so its keys and values depend on the
    passage alone and can be computed once and reused exactly.

    Attributes:
        preamble: constant text before everything (instructions, worked examples); may hold special tokens.
        passage: text with ``{title}`` and ``{text}``.
        question: text with ``{question}``, up to where the answer begins.
        max_passage_tokens: passages are cut to this many tokens.
        max_question_tokens: questions are cut to this many, with a warning.
    """

    preamble: str
    passage: str
    question: str
    max_passage_tokens: int = 256
    max_question_tokens: int = 512


@dataclass(frozen=True, kw_only=True)
class CausalGeneratorPart:
    """A decoder-only generator: one graph for prefill and step (see `rag_infer.generate.causal`).

    Attributes:
        kind: "causal".
        path: folder inside the bundle that holds ``graph`` and ``tokenizer.json``.
        graph: file name of the ONNX graph.
        append_graph, keep_graph, head_graph: file names of the graphs that keep cache and logits on a device (see
            `rag_infer.generate.device_cache`), or None in bundles that were exported without.
        vocab_size: width of the logits.
        num_layers, num_kv_heads, head_dim: shape of the key/value cache.
        max_positions: longest sequence the model was trained for.
        bos_token_id, eos_token_ids, pad_token_id: special tokens; generation stops at any of ``eos_token_ids``.
        prompt: how question and passage become tokens.
    """

    kind: str = "causal"
    path: str
    graph: str = "decoder.onnx"
    append_graph: str | None = None
    keep_graph: str | None = None
    head_graph: str | None = None
    vocab_size: int
    num_layers: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    pad_token_id: int
    prompt: PromptTemplate


@dataclass(frozen=True, kw_only=True)
class ComposingRule:
    """How an encoder-decoder's contexts are put together: prefix + title + title_sep + text + doc_sep + question.

    As transformers' `RagRetriever.postprocess_docs` does it, but for what is cut: there the end of the whole, here
    the passage, so that the question stays.

    Attributes:
        prefix: text before every context, or "".
        title_sep, doc_sep: text between title and text, and between text and question.
        max_combined_length: contexts are cut to this many tokens, special tokens included.
        decoded_question: whether the question is read back from the question encoder's tokens (lower-cased where its
            vocabulary is), as in training.
    """

    prefix: str = ""
    title_sep: str = " / "
    doc_sep: str = " // "
    max_combined_length: int = 300
    decoded_question: bool = False


@dataclass(frozen=True, kw_only=True)
class GeneratorVision:
    """How an encoder-decoder sees: a graph that turns images into features for its encoder or its decoder.

    Attributes:
        graph: file name of the ONNX graph; ``pixel_values`` is float32 ``[images, 3, height, width]``, the output
            ``features`` ``[images, places, width]``, projected to the width of what reads them.
        processing: how images become ``pixel_values``.
        places: features of one image.
        sources: whose images a context holds, of "question" and "passage", in the order in which they are read.
        reads_text: whether the context's text is read behind them; if not, the images are all of it.
    """

    graph: str = "vision.onnx"
    processing: ImageProcessing
    places: int
    sources: tuple[str, ...]
    reads_text: bool = True

    @property
    def context_places(self) -> int:
        """Places of a context that its images take."""
        return self.places * len(self.sources)


@dataclass(frozen=True, kw_only=True)
class Seq2SeqGeneratorPart:
    """An encoder-decoder generator: a graph that reads contexts and one that steps (`rag_infer.generate.seq2seq`).

    Attributes:
        kind: "seq2seq".
        path: folder inside the bundle that holds the graphs and ``tokenizer.json``.
        encoder_graph, step_graph: file names of the ONNX graphs.
        append_graph, keep_graph, head_graph: file names of the graphs that keep cache and logits on a device (see
            `rag_infer.generate.device_cache`), or None in bundles that were exported without.
        vocab_size: width of the logits.
        num_layers, num_heads, head_dim: shape of the decoder's key/value caches.
        max_positions: longest context (its images' places included) and longest answer, or None where positions are
            relative. Where no text is read, of the answer alone.
        decoder_start_token_id: the token every answer begins with.
        bos_token_id, eos_token_ids, pad_token_id: special tokens; generation stops at any of ``eos_token_ids``.
        composing: how question and passage become a context.
        vision: how it sees, or None for a generator of text alone.
    """

    kind: str = "seq2seq"
    path: str
    encoder_graph: str = "encoder.onnx"
    step_graph: str = "step.onnx"
    append_graph: str | None = None
    keep_graph: str | None = None
    head_graph: str | None = None
    vocab_size: int
    num_layers: int
    num_heads: int
    head_dim: int
    max_positions: int | None
    decoder_start_token_id: int
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    pad_token_id: int
    composing: ComposingRule
    vision: GeneratorVision | None = None


GeneratorPart = CausalGeneratorPart | Seq2SeqGeneratorPart
