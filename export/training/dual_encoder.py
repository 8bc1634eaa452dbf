"""A small dual encoder: a ResNet for images, CLIP's text tower, and their vectors in one space (Radford et al. 2021).

A convolutional tower learns what a shape looks like from a few thousand images; CLIP's vision transformer needs more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from rag_infer.export.training.contrastive import contrastive_loss
from rag_infer.export.training.easy_vqa import Facts, Split, all_facts
from rag_infer.export.training.pictures import MovingObjects, pixel_values, save_processor

SIZE = 64
DIMENSIONS = 64
MAX_TOKENS = 24
ENCODED_AT_ONCE = 256
# The factor on cosines before the softmax, in training and as the bundle's score_scale.
SCORE_SCALE = 20.0
IMAGE, TEXT = "image", "text"

_TEXT = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
_IMAGE = {
    "embedding_size": 24,
    "hidden_sizes": [48, DIMENSIONS],
    "depths": [1, 1],
    "layer_type": "basic",
}


@dataclass(frozen=True)
class DualEncoder:
    """Both towers, and the tokenizer.

    Attributes:
        image: a `ResNetModel`, whose pooled features are an image's vector.
        text: a `CLIPTextModelWithProjection`.
        tokenizer: of the texts.
    """

    image: Any
    text: Any
    tokenizer: Any

    @classmethod
    def new(cls, tokenizer: Any) -> DualEncoder:
        """With random weights, of PyTorch's seed."""
        settings = transformers.CLIPTextConfig(
            **_TEXT,
            vocab_size=len(tokenizer),
            max_position_embeddings=MAX_TOKENS,
            projection_dim=DIMENSIONS,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        image = transformers.ResNetModel(transformers.ResNetConfig(**_IMAGE))
        return cls(image, transformers.CLIPTextModelWithProjection(settings), tokenizer)

    @property
    def models(self) -> tuple[nn.Module, nn.Module]:
        """Both towers."""
        return self.image, self.text

    def image_vectors(self, pixels: Tensor) -> Tensor:
        """uint8 ``[images, 64, 64, 3]`` to float32 ``[images, dim]`` of length 1."""
        vectors = self.image(pixel_values=pixel_values(pixels)).pooler_output.flatten(1)
        return nn.functional.normalize(vectors, dim=-1)

    def text_vectors(self, texts: Sequence[str]) -> Tensor:
        """float32 ``[texts, dim]`` of length 1."""
        given = self.tokenizer(list(texts), padding=True, return_tensors="pt")
        vectors = self.text(**{name: given[name] for name in ("input_ids", "attention_mask")}).text_embeds
        return nn.functional.normalize(vectors, dim=-1)

    def encode_images(self, pixels: Tensor) -> Tensor:
        """As `image_vectors`, in parts and without gradients."""
        with torch.no_grad():
            return torch.cat([self.image_vectors(part) for part in torch.split(pixels, ENCODED_AT_ONCE)])

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """As `text_vectors`, without gradients; each distinct text is encoded once."""
        distinct = list(dict.fromkeys(texts))
        row = {text: i for i, text in enumerate(distinct)}
        with torch.no_grad():
            return self.text_vectors(distinct)[[row[text] for text in texts]]

    def save(self, folder: Path) -> None:
        """Write the checkpoints ``image`` and ``text`` that ``rag-infer export`` takes."""
        self.image.save_pretrained(folder / IMAGE)
        save_processor(folder / IMAGE, SIZE)
        self.text.save_pretrained(folder / TEXT)
        self.tokenizer.save_pretrained(folder / TEXT)

    @classmethod
    def load(cls, folder: Path) -> DualEncoder:
        """What `save` wrote.

        Raises:
            OSError: there is none.
        """
        return cls(
            transformers.ResNetModel.from_pretrained(folder / IMAGE),
            transformers.CLIPTextModelWithProjection.from_pretrained(folder / TEXT),
            transformers.AutoTokenizer.from_pretrained(folder / TEXT),
        )


class ContrastiveSteps:
    """The loss of one step after the other.

    Images are compared with every sentence of facts, and with questions, of which an image is right where it has what
    the question takes for granted: so that a question draws a search nowhere else.

    Args:
        encoder: what learns.
        split: the training images; those of which shape or colour is not known are left out.
        batch_size: images of a step, and as many questions.
        seed: of the draws.
    """

    def __init__(self, encoder: DualEncoder, split: Split, *, batch_size: int, seed: int) -> None:
        self._encoder = encoder
        self._known = [i for i, facts in enumerate(split.facts) if facts.whole]
        self._facts = [split.facts[i] for i in self._known]
        self._moving = MovingObjects(torch.from_numpy(split.pixels())[self._known])
        self._sentences = all_facts()
        self._questions = split.questions
        self._batch_size = batch_size
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self) -> Tensor:
        """The loss of images to sentences, sentences to images, and questions to images."""
        chosen = torch.randint(len(self._facts), (self._batch_size,), generator=self._generator)
        asked = torch.randint(len(self._questions), (self._batch_size,), generator=self._generator).tolist()
        questions = {q.text: q.presupposed for q in (self._questions[i] for i in asked)}
        said = [*self._sentences, *questions.values()]
        texts = [*(facts.sentence for facts in self._sentences), *questions]
        seen = self._encoder.image_vectors(self._moving(chosen, self._generator))
        logits = SCORE_SCALE * self._encoder.text_vectors(texts) @ seen.T
        right = agreement(said, [self._facts[i] for i in chosen.tolist()])
        # Of sentences, an image's best are those that say all: there its row is one of the 24 kinds.
        kinds = [i for i, facts in enumerate(self._sentences) if facts.whole]
        return contrastive_loss(logits, right) + contrastive_loss(logits[kinds].T, right[kinds].T)


def agreement(said: Sequence[Facts], known: Sequence[Facts]) -> Tensor:
    """Whether what is said is so of what is known: bool ``[said, known]``."""
    return torch.tensor([[one.agrees(other) for other in known] for one in said])
