"""A generator's special tokens, and its greedy answers against transformers' generate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import GenerationConfig, LlamaForCausalLM

from rag_infer.bundle import Bundle
from rag_infer.errors import ExportError
from rag_infer.export import export_bundle
from rag_infer.generator import Generator
from rag_infer.parts import CausalGeneratorPart
from tests.generate.conftest import arrays, random_contexts
from tests.tiny_llama import BOS, END, PAD, TURN, write_llama

TOKENS = 20


def part_of(bundle: Bundle) -> CausalGeneratorPart:
    part = bundle.manifest.generator
    assert part is not None
    return part


def in_transformers(model: LlamaForCausalLM, prompt: list[int], ends: tuple[int, ...]) -> list[int]:
    ids = torch.tensor([prompt])
    config = GenerationConfig(
        do_sample=False, max_new_tokens=TOKENS, eos_token_id=list(ends), pad_token_id=PAD
    )
    return model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)[
        0, len(prompt) :
    ].tolist()


@pytest.mark.parametrize("tied", [True, False])
def test_greedy_answers(tmp_path: Path, tied: bool) -> None:
    model = write_llama(tmp_path / "c", tie_word_embeddings=tied)
    bundle = export_bundle(tmp_path / "b", generator=tmp_path / "c")
    generator = Generator.from_pretrained(bundle.folder, threads=1)
    config = generator.defaults.updated(
        {"max_new_tokens": TOKENS, "stop_strings": (), "begin_suppress_tokens": ()}
    )
    contexts = random_contexts(3, questions=6, num_docs=1, longest=90)
    output = generator.generate_from_contexts(*arrays(contexts, [[0.0]] * 6), config=config)
    for row, ((prompt,)) in zip(output.sequences, contexts, strict=True):
        wanted = in_transformers(model, prompt, (END,))
        assert row.tolist() == wanted + [PAD] * (len(row) - len(wanted))


def test_answers_end_at_any_of_several_tokens(tmp_path: Path) -> None:
    """The generation config's tokens, as chat models have them: the config's single one is not all."""
    model = write_llama(tmp_path / "c")
    prompt = list(range(20, 40))
    free = in_transformers(model, prompt, (END,))
    ends = (END, TURN, free[3])
    model.generation_config.eos_token_id = list(ends)
    model.save_pretrained(tmp_path / "c")
    bundle = export_bundle(tmp_path / "b", generator=tmp_path / "c")
    assert part_of(bundle).eos_token_ids == ends
    generator = Generator.from_pretrained(bundle.folder, threads=1)
    config = generator.defaults.updated({"max_new_tokens": TOKENS, "stop_strings": ()})
    output = generator.generate_from_contexts(*arrays([[prompt]], [[0.0]]), config=config)
    wanted = in_transformers(model, prompt, ends)
    assert len(wanted) <= 4
    assert output.sequences[0].tolist()[: len(wanted)] == wanted
    assert set(output.sequences[0].tolist()[len(wanted) :]) <= {PAD}


def test_text_that_begins_with_a_token(tmp_path: Path) -> None:
    write_llama(tmp_path / "c")
    path = tmp_path / "c" / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.post_processor = TemplateProcessing(single="<begin> $A", special_tokens=[("<begin>", BOS)])
    tokenizer.save(str(path))
    bundle = export_bundle(tmp_path / "b", generator=tmp_path / "c")
    assert part_of(bundle).bos_token_id == BOS
    composer = Generator.from_pretrained(bundle.folder, threads=1).composer
    (context,) = composer.compose("where?", [("Sea", "the river runs deep.")])
    prompt = [*composer.preamble_ids, *context.passage_ids, *context.question_ids]
    assert prompt[0] == BOS
    assert prompt.count(BOS) == 1


@pytest.mark.parametrize(("stored", "found"), [(None, END), (-1, END), (PAD, PAD)])
def test_padding(tmp_path: Path, stored: int | None, found: int) -> None:
    write_llama(tmp_path / "c")
    rewrite(tmp_path / "c" / "config.json", pad_token_id=stored)
    assert part_of(export_bundle(tmp_path / "b", generator=tmp_path / "c")).pad_token_id == found


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_no_tokenizer(tmp_path: Path) -> None:
    write_llama(tmp_path / "c")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (tmp_path / "c" / name).unlink()
    with pytest.raises(ExportError, match=r"has no tokenizer: expected one of tokenizer\.json"):
        export_bundle(tmp_path / "b", generator=tmp_path / "c")
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_too_few_positions_for_the_prompt(tmp_path: Path) -> None:
    """The export says so, and no question is cut on the way."""
    write_llama(tmp_path / "c", max_position_embeddings=64)
    with pytest.raises(ExportError, match="64 positions"):
        export_bundle(tmp_path / "b", generator=tmp_path / "c")
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_masks_are_right_where_rows_differ_by_much(tmp_path: Path) -> None:
    """A row gives the same logits alone and beside one a hundred times as long."""
    write_llama(tmp_path / "c")
    generator = Generator.from_pretrained(
        export_bundle(tmp_path / "b", generator=tmp_path / "c").folder, threads=1
    )
    short, long = [7, 8], [int(i) for i in np.random.default_rng(1).integers(4, 300, size=200)]
    both = generator._model.decoder.teacher_force([short, long], [50, 60])
    for row, prompt in zip(both, (short, long), strict=True):
        alone = generator._model.decoder.teacher_force([prompt], [50, 60])[0]
        np.testing.assert_allclose(row, alone, atol=1e-5 * np.abs(alone).max())
