"""BART that reads images before its text: the PyTorch model of an encoder-decoder generator that sees.

The encoder's input is [projected features of all images ; token embeddings], and its positions run over both: fusion
by concatenation, as in VL-BART (Cho et al. 2021, "Unifying Vision-and-Language Tasks via Text Generation") and MuRAG
(Chen et al. 2022). Everything after the encoder's input is BART.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSeq2SeqLM,
    BartConfig,
    BartForConditionalGeneration,
    CLIPVisionModel,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    ResNetModel,
    ViTModel,
)
from transformers.models.bart.modeling_bart import shift_tokens_right

MODEL_TYPE = "rag_infer_vision_text"
WEIGHTS_FILE, GENERATION_FILE = "model.safetensors", "generation_config.json"
VISION_MODELS = (ViTModel, CLIPVisionModel, ResNetModel)
# Whose images a row can hold, in this order.
IMAGE_SOURCES = ("question", "passage")


class VisionTextConfig(PretrainedConfig):  # type: ignore[misc]  # transformers ships no types
    """``config.json`` of a `VisionTextModel`.

    Args:
        text_config: of the BART model.
        vision_config: of the vision model.
        images: whose images a row holds, of `IMAGE_SOURCES` and in their order.
        settings: what transformers itself writes.
    """

    model_type = MODEL_TYPE
    has_no_defaults_at_init = True

    def __init__(
        self,
        *,
        text_config: PretrainedConfig | dict[str, Any] | None = None,
        vision_config: PretrainedConfig | dict[str, Any] | None = None,
        images: Sequence[str] = IMAGE_SOURCES,
        **settings: Any,
    ) -> None:
        if text_config is None or vision_config is None:
            raise ValueError(
                f"{MODEL_TYPE} needs a text_config and a vision_config"
            )  # transformers tries without
        if not images or list(images) != [source for source in IMAGE_SOURCES if source in images]:
            raise ValueError(f"images must be of {IMAGE_SOURCES}, in that order, got {tuple(images)}")
        self.text_config = BartConfig(**text_config) if isinstance(text_config, dict) else text_config
        self.vision_config = (
            AutoConfig.for_model(**vision_config) if isinstance(vision_config, dict) else vision_config
        )
        self.images = list(images)
        super().__init__(**settings)


class VisionTextModel(nn.Module):
    """BART whose encoder reads projected image features and then text tokens.

    Args:
        text: BART.
        vision: a `ViTModel`, `CLIPVisionModel` or `ResNetModel`. Its features are the tokens of its last hidden
            state, or the places of a ResNet's last map. A ViT's pooler is not used, and is taken off.
        images: whose images a row holds: "question", "passage" or both, in that order.

    Attributes:
        config: a `VisionTextConfig`.
        projection: from the vision model's width to BART's.

    Raises:
        TypeError: another vision model.
    """

    def __init__(
        self,
        text: BartForConditionalGeneration,
        vision: PreTrainedModel,
        *,
        images: Sequence[str] = IMAGE_SOURCES,
    ) -> None:
        super().__init__()
        if not isinstance(vision, VISION_MODELS):
            known = ", ".join(kind.__name__ for kind in VISION_MODELS)
            raise TypeError(f"the vision model must be one of {known}, got {type(vision).__name__}")
        if isinstance(vision, ViTModel):
            vision.pooler = None
        self.config = VisionTextConfig(text_config=text.config, vision_config=vision.config, images=images)
        self.text = text
        self.vision = vision
        self.projection = nn.Linear(_width(vision.config), text.config.d_model)

    def image_features(self, pixel_values: Tensor) -> Tensor:
        """float32 ``[images, 3, height, width]`` to projected features ``[images, places, d_model]``."""
        features = self.vision(pixel_values=pixel_values).last_hidden_state
        if features.dim() == 4:
            features = features.flatten(2).transpose(1, 2)
        projected: Tensor = self.projection(features)
        return projected

    def forward(
        self,
        *,
        input_ids: Tensor,
        attention_mask: Tensor,
        pixel_values: Tensor,
        image_mask: Tensor | None = None,
        labels: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
    ) -> Tensor:
        """Logits of each answer token.

        Args:
            input_ids: int64 ``[rows, tokens]``, right-padded.
            attention_mask: int64, same shape, 1 where a token counts.
            pixel_values: float32 ``[rows, images, 3, height, width]``, of the sources of ``config.images`` in order.
            image_mask: int64 ``[rows, images]``, 0 where a row lacks an image: its places, which are there all the
                same, are not attended to. Default: no row lacks any.
            labels: int64 ``[rows, answer tokens]``, -100 behind the answer: the logits predict them.
            decoder_input_ids: instead of ``labels``, int64 ``[rows, answer tokens]`` from the start token on.

        Returns:
            float32 ``[rows, answer tokens, vocab]``.

        Raises:
            ValueError: another number of images per row, or not exactly one of labels and decoder_input_ids.
        """
        rows, images = pixel_values.shape[:2]
        if images != len(self.config.images):
            raise ValueError(
                f"a row has images of {self.config.images}, but pixel_values has {images} per row"
            )
        if (labels is None) == (decoder_input_ids is None):
            raise ValueError("give either labels or decoder_input_ids")
        if labels is not None:
            settings = self.text.config
            decoder_input_ids = shift_tokens_right(
                labels, settings.pad_token_id, settings.decoder_start_token_id
            )
        seen = self.image_features(pixel_values.flatten(0, 1))
        return self.read(
            seen.reshape(rows, -1, seen.shape[-1]),
            input_ids=input_ids,
            attention_mask=attention_mask,
            image_mask=image_mask,
            decoder_input_ids=decoder_input_ids,
        )

    def read(
        self,
        seen: Tensor,
        *,
        input_ids: Tensor,
        attention_mask: Tensor,
        decoder_input_ids: Tensor | None,
        image_mask: Tensor | None = None,
    ) -> Tensor:
        """As `forward`, with the features of each row's images, ``[rows, all places, d_model]``.

        So an image that many rows hold is looked at once.
        """
        read = self.text.get_encoder().embed_tokens(input_ids)  # scaled as BART scales them
        rows, images = len(seen), len(self.config.images)
        there = attention_mask.new_ones(rows, images) if image_mask is None else image_mask
        there = there.repeat_interleave(seen.shape[1] // images, dim=1)
        logits: Tensor = self.text(
            inputs_embeds=torch.cat([seen, read], dim=1),
            attention_mask=torch.cat([there, attention_mask], dim=1),
            decoder_input_ids=decoder_input_ids,
            use_cache=False,
        ).logits
        return logits

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json``, ``generation_config.json`` and ``model.safetensors``.

        The tokenizer's files and the vision processor's ``preprocessor_config.json`` belong beside them.
        """
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        self.config.save_pretrained(path)
        self.text.generation_config.save_pretrained(path)
        save_model(self, str(path / WEIGHTS_FILE))

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, attention: str | None = None) -> VisionTextModel:
        """Load what `save_pretrained` wrote, in evaluation mode.

        Args:
            folder: a local folder.
            attention: transformers' ``attn_implementation``, default its own choice.

        Raises:
            OSError, ValueError: a file is missing, or not of this model.
            RuntimeError: weights are missing or left over.
        """
        path = Path(folder)
        config = VisionTextConfig.from_pretrained(path)
        pooler = {"add_pooling_layer": False} if config.vision_config.model_type == "vit" else {}
        model = cls(
            AutoModelForSeq2SeqLM.from_config(config.text_config, attn_implementation=attention),
            AutoModel.from_config(config.vision_config, attn_implementation=attention, **pooler),
            images=config.images,
        )
        if (path / GENERATION_FILE).exists():
            model.text.generation_config = GenerationConfig.from_pretrained(path)
        load_model(model, path / WEIGHTS_FILE)
        return model.eval()


def _width(config: PretrainedConfig) -> int:
    """Of a vision model's features."""
    width: int = config.hidden_sizes[-1] if hasattr(config, "hidden_sizes") else config.hidden_size
    return width


AutoConfig.register(MODEL_TYPE, VisionTextConfig)
