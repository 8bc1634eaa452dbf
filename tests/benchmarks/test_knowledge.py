"""The benchmark of a large knowledge base at a small size, and the arithmetic of its page."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import bench_knowledge, passage_source, size_knowledge

# Bytes per 768-d vector of hnswlib's files, measured (16 to 64 neighbours).
MEASURED_BYTES = {16: 3221, 32: 3349, 64: 3604}


def test_a_small_run_ends_with_a_record(tmp_path, capsys):
    sizes = ["--passages", "2000", "--batch", "500", "--dim", "32", "--random"]
    short = ["--queries", "10", "--seconds", "1", "--newcomers", "3", "--threads", "1"]
    assert bench_knowledge.main([*sizes, *short, "--seed", "3", "--folder", str(tmp_path)]) == 0
    *table, last = capsys.readouterr().out.splitlines()
    record = json.loads(last)
    figures = record["results"][0]
    assert (record["seed"], record["within_6_gb"], figures["passages"]) == (3, True, 2000)
    assert figures["float32_recall_at_10"] == 1
    assert figures["hnsw_recall_at_10"] > 0.9
    assert figures["vectors_bytes"] == 2000 * 32 * 4
    assert figures["visible_from_call_p50_ms"] >= figures["visible_from_return_p50_ms"] > 0
    assert figures["deleted"] == 20
    assert any("hnsw_build_s" in line for line in table)
    assert not list(tmp_path.iterdir())
    path = tmp_path / "record.json"
    path.write_text(last, encoding="utf-8")
    assert size_knowledge.main(["--passages", "4000", "--dim", "32", "--result", str(path)]) == 0
    assert "4,000 x 32 x 4 B" in capsys.readouterr().out


def test_a_batch_is_the_same_in_every_process():
    first = passage_source.source(16, seed=1, demo=False)
    again = passage_source.source(16, seed=1, demo=False)
    passages, vectors = first.passages(passage_source.PASSAGES, 2, 50)
    np.testing.assert_array_equal(vectors, again.vectors(passage_source.PASSAGES, 2, 50))
    assert passages == again.passages(passage_source.PASSAGES, 2, 50)[0]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    lengths = [len(p.text.split()) - 1 for p in passages]  # less the number
    assert passage_source.WORDS[0] <= min(lengths) <= max(lengths) <= passage_source.WORDS[1]
    assert [p.id for p in passages[:2]] == ["0-000000100", "0-000000101"]
    assert not np.array_equal(vectors, first.vectors(passage_source.QUERIES, 2, 50))


@pytest.mark.parametrize("degree", list(MEASURED_BYTES))
def test_bytes_of_a_graph_are_those_measured(degree):
    assert size_knowledge.graph_bytes(768, degree) == pytest.approx(MEASURED_BYTES[degree], abs=1)


def test_the_page_has_the_recorded_figures():
    page = size_knowledge.PAGE.read_text(encoding="utf-8")
    costs = size_knowledge.recorded()
    assert size_knowledge.updated(page, costs) == page, "run python -m benchmarks.size_knowledge --write"


def test_sizes_by_hand():
    figures = {
        "text_bytes_per_passage": 400.0,
        "words_bytes": 1000 * 200.0,
        "record_bytes": 1000 * 900.0,
        "hnsw_bytes": 0.0,
        "hnsw_anonymous_mb": 10.0,
        "float32_anonymous_mb": 10.0,
    }
    costs = size_knowledge.Costs(1000, 8, figures)
    lines = {line.what: line.value for line in size_knowledge.sizes(costs, 2**30, 256, 160)}
    assert lines["vectors, float32"] == "1,024.0 GiB"
    assert lines["codes, int8"] == "268.0 GiB"
    assert lines["record: texts, fields, digests, BM25"] == "1,500.0 GiB"  # (400 + 200) * 2 + 300
    assert lines["of which BM25"] == "400.0 GiB"
