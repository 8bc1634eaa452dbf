"""Small random bundles that see: a dual encoder with generators of each kind, and pictures to ask about."""

from __future__ import annotations

from pathlib import Path

from rag_infer.export import export_bundle
from rag_infer.knowledge import Passage
from tests.export.test_image_encoder import write_clip, write_vit
from tests.export.test_text_tower import tokenizer_of
from tests.knowledge.seeing import COLOURS, picture
from tests.seeing_checkpoints import write_captioner, write_vision_text
from tests.seq2seq_checkpoints import make_model, save_tokenizer

KINDS = ("text and images", "captions", "text")


def write_dual_encoder(folder: Path) -> None:
    """A checkpoint of CLIP with its tokenizer."""
    write_clip(folder)
    tokenizer_of("<s>", "</s>", "</s>").save_pretrained(folder)


def write_bundle(folder: Path, kind: str) -> Path:
    """A bundle of CLIP and a generator: BART that sees (both images, or the question's), a captioner (of passages, or
    of the question's image), or BART that does not see. "images": BART that sees, with an encoder of images alone.
    """
    write_dual_encoder(folder / "clip")
    write_vit(folder / "vit")
    if kind in ("text and images", "images"):
        write_vision_text(folder / "generator")
    elif kind == "question":
        write_vision_text(folder / "generator", images=("question",))
    elif kind == "captions":
        write_captioner(folder / "generator", images=("passage",))
    elif kind == "captions of questions":
        write_captioner(folder / "generator", images=("question",))
    else:
        model = make_model("bart")
        model.save_pretrained(folder / "generator")
        save_tokenizer(folder / "generator", model)
    export_bundle(
        folder / "bundle",
        text_encoder=None if kind == "images" else folder / "clip",
        image_encoder=folder / ("vit" if kind == "images" else "clip"),
        generator=folder / "generator",
        score_scale=5.0,
        n_docs=3,
    )
    return folder / "bundle"


def passages() -> list[Passage]:
    """With text, with an image, and with both, by turns."""
    words = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"]
    return [
        Passage(
            f"p{i}",
            "" if i % 3 == 0 else f"{word} {words[i - 1]}",
            image=None if i % 3 == 1 else picture(list(COLOURS)[i % 4], i),
        )
        for i, word in enumerate(words)
    ]
