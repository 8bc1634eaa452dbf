"""A small generator that sees, trained with the marginal likelihood over retrieved passages (Lewis et al. 2020)."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from rag_infer.compose import Seq2SeqComposer
from rag_infer.export.training.dual_encoder import SIZE
from rag_infer.export.training.marginal import IGNORED, marginal_loss
from rag_infer.export.training.pictures import pixel_values, save_processor
from rag_infer.export.vision_text import VisionTextModel
from rag_infer.parts import ComposingRule
from rag_infer.text import Tokenizer, pad

POSITIONS = 64
_TEXT = {
    "d_model": 96,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 192,
    "decoder_ffn_dim": 192,
    "dropout": 0.0,
    # About 1/sqrt(d_model); BART's own 0.02 is for widths of a thousand, and learns slowly here.
    "init_std": 0.1,
}
# It sees coarsely, 4 by 4 patches: what exactly is in the image, the passages say.
_VISION = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "patch_size": 16,
}


@dataclass(frozen=True)
class Batch:
    """Questions with what was retrieved for each.

    Attributes:
        questions: texts.
        pixels: their images, uint8 ``[questions, 64, 64, 3]``.
        passages: per question n_docs texts.
        scores: float32 ``[questions, n_docs]``, times score_scale.
    """

    questions: Sequence[str]
    pixels: Tensor
    passages: Sequence[Sequence[str]]
    scores: Tensor


class RagGenerator:
    """The model, its tokenizer, and the composer that the runtime uses with it.

    Args:
        model: the model.
        tokenizer: transformers' own.
    """

    def __init__(self, model: VisionTextModel, tokenizer: Any) -> None:
        self.model = model
        self.tokenizer = tokenizer
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "tokenizer.json"
            tokenizer.backend_tokenizer.save(str(path))
            self._composer = Seq2SeqComposer(Tokenizer(path), ComposingRule(max_combined_length=POSITIONS))
        self._composed: dict[tuple[str, str], tuple[int, ...]] = {}

    @classmethod
    def new(cls, tokenizer: Any) -> RagGenerator:
        """With random weights, of PyTorch's seed."""
        settings = transformers.BartConfig(
            **_TEXT,
            vocab_size=len(tokenizer),
            max_position_embeddings=POSITIONS,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            decoder_start_token_id=tokenizer.eos_token_id,
            forced_eos_token_id=None,
        )
        vision = transformers.ViTConfig(**_VISION, image_size=SIZE)
        model = VisionTextModel(
            transformers.BartForConditionalGeneration(settings),
            transformers.ViTModel(vision, add_pooling_layer=False),
            images=["question"],
        )
        return cls(model, tokenizer)

    def labels(self, answers: Sequence[str]) -> Tensor:
        """Answers of one word each and the end, int64 ``[answers, tokens]``, -100 behind them."""
        end = self.tokenizer.eos_token_id
        rows = [
            torch.tensor([*self.tokenizer(a, add_special_tokens=False)["input_ids"], end]) for a in answers
        ]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=IGNORED)

    def logits(self, batch: Batch, decoder_input_ids: Tensor) -> Tensor:
        """Of each answer token under each passage.

        Args:
            batch: the questions.
            decoder_input_ids: int64 ``[questions, tokens]``.

        Returns:
            float32 ``[questions, n_docs, tokens, vocab]``.
        """
        # What was retrieved for a question is often one text several times: it is read once.
        rows: dict[tuple[int, str], int] = {}
        for i, found in enumerate(batch.passages):
            for passage in found:
                rows.setdefault((i, passage), len(rows))
        ids, mask = pad(
            [self._context(batch.questions[i], passage) for i, passage in rows],
            self.tokenizer.pad_token_id,
            multiple=1,
        )
        owner = torch.tensor([i for i, _ in rows])
        logits = self.model.read(
            self.model.image_features(pixel_values(batch.pixels))[owner],
            input_ids=torch.from_numpy(ids),
            attention_mask=torch.from_numpy(mask),
            decoder_input_ids=decoder_input_ids[owner],
        )
        places = [[rows[i, passage] for passage in found] for i, found in enumerate(batch.passages)]
        return logits[torch.tensor(places)]

    def loss(self, batch: Batch, answers: Sequence[str]) -> Tensor:
        """The mean of -log p(answer | question) under the marginal of RAG-Token."""
        labels = self.labels(answers)
        start = torch.full_like(labels[:, :1], self.tokenizer.eos_token_id)
        before = labels[:, :-1].masked_fill(labels[:, :-1] == IGNORED, self.tokenizer.pad_token_id)
        return marginal_loss(self.logits(batch, torch.cat([start, before], dim=1)), batch.scores, labels)

    def first_words(self, batch: Batch) -> list[str]:
        """The most probable first word of each answer, which here is all of it: for a look while developing."""
        start = torch.full((len(batch.questions), 1), self.tokenizer.eos_token_id)
        with torch.no_grad():
            log_probs = torch.log_softmax(self.logits(batch, start)[:, :, 0], dim=-1)
        priors = torch.log_softmax(batch.scores, dim=1)
        best = torch.logsumexp(priors[:, :, None] + log_probs, dim=1).argmax(1)
        return [str(word) for word in self.tokenizer.convert_ids_to_tokens(best.tolist())]

    def save(self, folder: Path) -> None:
        """Write the checkpoint that ``rag-infer export --generator`` takes."""
        self.model.save_pretrained(folder)
        save_processor(folder, SIZE)
        self.tokenizer.save_pretrained(folder)

    @classmethod
    def load(cls, folder: Path) -> RagGenerator:
        """What `save` wrote."""
        return cls(
            VisionTextModel.from_pretrained(folder), transformers.AutoTokenizer.from_pretrained(folder)
        )

    def _context(self, question: str, passage: str) -> tuple[int, ...]:
        """Question and passage as the runtime composes them; kept, as few are distinct."""
        key = (question, passage)
        if key not in self._composed:
            self._composed[key] = self._composer.compose(question, [("", passage)])[0].input_ids
        return self._composed[key]
