"""The sequences and scores of transformers' RAG classes, over randomly drawn settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rag_infer import GenerationConfig, Generator
from rag_infer.export import export_bundle
from tests.parity.references import Pair, generate
from tests.parity.settings import draw
from tests.parity.tally import TALLY
from tests.seq2seq_checkpoints import write_seq2seq

# (family, seeds of models, cases of each): over 300 cases of RAG-Token, 70 of RAG-Sequence.
TOKEN_CASES = [
    ("bart", 5, 26),
    ("t5", 5, 26),
    ("flan-t5", 1, 16),
    ("mbart", 1, 16),
    ("pegasus", 1, 16),
    ("marian", 1, 16),
]
SEQUENCE_CASES = [("bart", 2, 15), ("t5", 2, 15), ("mbart", 1, 5), ("pegasus", 1, 5), ("marian", 1, 5)]
# transformers gives beams without a token of their own scores this low, of which float32 keeps few digits.
FAR_BEHIND = -1e6
# Where scores differ by less, either sequence is right.
TIE = 1e-5


def models(cases: list[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """(family, seed of the model, cases)."""
    return [(family, seed, count) for family, seeds, count in cases for seed in range(seeds)]


def compare(pair: Pair, family: str, model_seed: int, strategy: str, seed: int) -> None:
    """One case; a mismatch prints the line that runs it alone."""
    config = pair.model.config
    case = draw(seed, vocab_size=config.vocab_size, pad_id=config.pad_token_id, eos_id=config.eos_token_id)
    if strategy == "rag-token" and case.settings["num_beams"] == 1:
        case.settings["num_return_sequences"] = 1
    wanted, wanted_scores = generate(pair.model, strategy, case)
    alone = (
        'rerun: python -c "from tests.parity.test_decoding import rerun; '
        f'rerun({family!r}, {model_seed}, {strategy!r}, {seed})"\n{case.settings}'
    )
    # RAG-Sequence's prior, and beams without a token of their own, differ from transformers' by default.
    right = strategy == "rag-token" and "forced_bos_token_id" not in case.settings
    for compat in ("transformers-4.57", None) if right else ("transformers-4.57",):
        settings = GenerationConfig(strategy=strategy, compat=compat, **case.settings)
        output = pair.generator.generate_from_contexts(
            case.input_ids, case.attention_mask, case.doc_scores, config=settings
        )
        if wanted_scores is not None:
            assert np.allclose(output.scores, wanted_scores, atol=1e-4, rtol=1e-5), alone
            possible = np.isfinite(wanted_scores) & (wanted_scores > FAR_BEHIND)
            differences = np.abs(output.scores - wanted_scores)[possible].tolist()
            pairs = zip(differences, wanted_scores[possible].tolist(), strict=True)
            TALLY.largest_difference = max(TALLY.largest_difference, *pairs)
        if ended(output.sequences, config) != ended(wanted, config):
            tie = wanted_scores is not None and np.abs(output.scores - wanted_scores).max() < TIE
            assert tie, f"{alone}\n{output.sequences.tolist()}\n{wanted.tolist()}"
            print(f"tie: {family} {model_seed} {strategy} {seed}")
            TALLY.ties += 1
            return
    TALLY.equal += 1


def ended(sequences: NDArray[np.int64], config: Any) -> list[list[int]]:
    """The rows up to their ends of text, without padding."""
    found = []
    for row in sequences:
        ends = np.flatnonzero(row[1:] == config.eos_token_id)
        found.append(
            np.trim_zeros(row[: ends[0] + 2 if ends.size else None] - config.pad_token_id, "b").tolist()
        )
    return found


def rerun(family: str, model_seed: int, strategy: str, seed: int) -> None:
    """One case alone."""
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = write_seq2seq(folder / "checkpoint", family, seed=model_seed)
        bundle = export_bundle(folder / "bundle", generator=folder / "checkpoint")
        compare(Pair(model, Generator(bundle, threads=1)), family, model_seed, strategy, seed)


@pytest.mark.parametrize(("family", "model_seed", "count"), models(TOKEN_CASES))
def test_rag_token(pair: Callable[[str, int], Pair], family: str, model_seed: int, count: int) -> None:
    for i in range(count):
        compare(pair(family, model_seed), family, model_seed, "rag-token", 1000 * model_seed + i)


@pytest.mark.parametrize(("family", "model_seed", "count"), models(SEQUENCE_CASES))
def test_rag_sequence(pair: Callable[[str, int], Pair], family: str, model_seed: int, count: int) -> None:
    for i in range(count):
        compare(pair(family, model_seed), family, model_seed, "rag-sequence", 1000 * model_seed + i)


def test_base_size(tmp_path: Path) -> None:
    """BART of the published base size, random weights."""
    size = {"d_model": 768, "encoder_layers": 6, "decoder_layers": 6, "vocab_size": 50265, "init_std": 0.05}
    heads = {"encoder_attention_heads": 12, "decoder_attention_heads": 12}
    width = {"encoder_ffn_dim": 3072, "decoder_ffn_dim": 3072, "max_position_embeddings": 1024}
    model = write_seq2seq(tmp_path / "c", "bart", **size, **heads, **width)
    generator = Generator(export_bundle(tmp_path / "b", generator=tmp_path / "c"))
    for seed in range(4):
        compare(Pair(model, generator), "bart", 0, ("rag-token", "rag-sequence")[seed % 2], seed)
