"""A checkpoint's image processor as data."""

from __future__ import annotations

from typing import Any

from rag_infer.errors import ExportError
from rag_infer.parts import ImageProcessing

# Numbers of Pillow's filters, as checkpoints name them.
RESAMPLES = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}

# ConvNeXt's processor crops below this size only.
CONVNEXT_CROPS_BELOW = 384


def read_processing(checkpoint: str) -> ImageProcessing:
    """What the image processor of a checkpoint does.

    Raises:
        ExportError: it has none, one of a class that is not known exactly, or with a setting that is not supported.
    """
    from transformers import AutoImageProcessor

    try:
        processor = AutoImageProcessor.from_pretrained(checkpoint, use_fast=False)
    except (OSError, ValueError) as error:
        raise ExportError(f"{checkpoint} has no image processor: {str(error).splitlines()[0]}") from error
    return processing_of(processor, checkpoint)


def processing_of(processor: Any, checkpoint: str) -> ImageProcessing:
    """The same of a loaded processor."""
    kind = type(processor).__name__.removesuffix("Fast")
    if kind not in _READERS:
        known = ", ".join(sorted(_READERS))
        raise ExportError(
            f"{checkpoint} has a {kind}, whose preprocessing is not known: supported are {known}"
        )
    settings = _READERS[kind](processor, checkpoint)
    normalises = bool(processor.do_normalize)
    return ImageProcessing(
        resample=RESAMPLES[int(processor.resample)],
        scale=float(processor.rescale_factor) if processor.do_rescale else 1.0,
        mean=tuple(map(float, processor.image_mean)) if normalises else (),
        std=tuple(map(float, processor.image_std)) if normalises else (),
        **settings,
    )


def _sized(processor: Any, checkpoint: str) -> dict[str, Any]:
    """CLIP's, SigLIP's and ViT's: to a size, and for CLIP the middle of it."""
    size = dict(processor.size) if processor.do_resize else {}
    crop = dict(processor.crop_size) if getattr(processor, "do_center_crop", False) else {}
    settings: dict[str, Any] = {"resize": "none"}
    if "shortest_edge" in size:
        settings = {"resize": "shortest_edge", "shortest_edge": int(size["shortest_edge"])}
    elif size:
        settings = {"resize": "exact"}
    result = crop or size
    if not {"height", "width"} <= result.keys() or (crop and settings["resize"] == "exact" and crop != size):
        raise ExportError(f"{checkpoint}: images are resized to {size} and cropped to {crop}: not supported")
    return {**settings, "height": int(result["height"]), "width": int(result["width"])}


def _convnext(processor: Any, checkpoint: str) -> dict[str, Any]:
    """ConvNeXt's: below 384 pixels the middle of something larger."""
    edge = processor.size.get("shortest_edge") if processor.do_resize else None
    if edge is None:
        raise ExportError(f"{checkpoint}: images are resized to {processor.size}: not supported")
    if edge >= CONVNEXT_CROPS_BELOW:
        return {"resize": "exact", "height": edge, "width": edge}
    larger = int(edge / processor.crop_pct)
    return {"resize": "shortest_edge", "shortest_edge": larger, "height": edge, "width": edge}


_READERS = {
    "CLIPImageProcessor": _sized,
    "SiglipImageProcessor": _sized,
    "ViTImageProcessor": _sized,
    "ConvNextImageProcessor": _convnext,
}
