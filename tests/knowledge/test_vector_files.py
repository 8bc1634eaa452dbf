"""Ready vectors from NumPy arrays, DPR's pickles and datasets folders, put together with their passages."""

from __future__ import annotations

import contextlib
import json
import pickle
import random
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest

from rag_infer.errors import VectorFileError
from rag_infer.knowledge import KnowledgeBase, Passage
from rag_infer.knowledge.vector_files import read_vectors
from rag_infer.knowledge.vector_import import VectorImport
from tests.knowledge.encoders import HashingEncoder
from tests.knowledge.small_disk import no_file_above

DIM = 16
COUNT = 1200  # more than two batches
PASSAGES = [Passage(f"p{i}", f"word{i} text", f"title {i}", {"i": i}) for i in range(COUNT)]
VECTORS = np.random.default_rng(1).standard_normal((COUNT, DIM)).astype(np.float32)


def imported(paths: list[Path], passages: Iterable[Passage] | None, **options: Any) -> dict[str, Any]:
    """Vectors by id, after an upsert and a search to see that they are stored as they were."""
    reader = VectorImport(paths, dim=DIM, passages=passages, **options)
    found: dict[str, Any] = {}
    for batch in reader:
        assert batch.passages is not None
        for passage, vector in zip(batch.passages, batch.vectors, strict=True):
            found[passage.id] = (passage, vector)
    reader.close()
    return found


def check(found: dict[str, Any], vectors: np.ndarray = VECTORS) -> None:
    assert len(found) == len(vectors)
    for i, (passage, vector) in enumerate(zip(PASSAGES, vectors, strict=False)):
        assert found[f"p{i}"][0] == passage
        assert found[f"p{i}"][1].dtype == np.float32
        assert found[f"p{i}"][1].tobytes() == vector.astype(np.float32).tobytes()


def refused(paths: list[Path] | Path, passages: Iterable[Passage] | None = PASSAGES, **options: Any) -> str:
    with pytest.raises(VectorFileError) as caught:
        imported(paths if isinstance(paths, list) else [paths], passages, **options)
    return str(caught.value)


def shards(folder: Path, order: list[int], *, protocol: int = 4, parts: int = 3) -> list[Path]:
    """As DPR writes them: each a list of (id, vector)."""
    paths = []
    for part in range(parts):
        chosen = order[part * len(order) // parts : (part + 1) * len(order) // parts]
        paths.append(folder / f"wikipedia_passages_{part}")
        paths[-1].write_bytes(pickle.dumps([(f"p{i}", VECTORS[i]) for i in chosen], protocol))
    return paths


@pytest.mark.parametrize("protocol", range(6))
def test_dpr_shards_in_order(tmp_path: Path, protocol: int) -> None:
    check(imported(shards(tmp_path, list(range(COUNT)), protocol=protocol), PASSAGES))


def test_dpr_shards_in_any_order(tmp_path: Path) -> None:
    order = random.Random(2).sample(range(COUNT), COUNT)
    check(imported(shards(tmp_path, order), iter(PASSAGES)))


def test_passages_without_vectors_are_counted(tmp_path: Path) -> None:
    reader = VectorImport(shards(tmp_path, list(range(5, 900))), dim=DIM, passages=PASSAGES)
    assert sum(len(batch.vectors) for batch in reader) == 895
    assert reader.without_vector == 305
    reader.close()


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_numpy_rows_in_the_order_of_the_passages(tmp_path: Path, dtype: Any) -> None:
    vectors = VECTORS.astype(dtype)
    np.save(tmp_path / "a.npy", vectors[:700])
    np.save(tmp_path / "b.npy", np.asfortranarray(vectors[700:]))
    check(imported([tmp_path / "a.npy", tmp_path / "b.npy"], PASSAGES), vectors)


def test_numpy_rows_with_ids(tmp_path: Path) -> None:
    order = random.Random(3).sample(range(COUNT), COUNT)
    np.save(tmp_path / "a.npy", VECTORS[order])
    (tmp_path / "ids.txt").write_text("".join(f"p{i}\n" for i in order))
    check(imported([tmp_path / "a.npy"], PASSAGES, ids=tmp_path / "ids.txt"))
    lines = [json.dumps({"_id": f"p{i}"} if i % 2 else f"p{i}") for i in order]
    (tmp_path / "ids.jsonl").write_text("\n".join(lines))
    check(imported([tmp_path / "a.npy"], PASSAGES, ids=tmp_path / "ids.jsonl"))


def test_ids_that_do_not_fit(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", VECTORS)
    ids = tmp_path / "ids.txt"
    for count in (COUNT - 1, COUNT + 2):
        ids.write_text("".join(f"p{i}\n" for i in range(count)))
        assert f"{ids} has {count} ids, {tmp_path / 'a.npy'} has 1200 vectors" in refused(
            tmp_path / "a.npy", [*PASSAGES, Passage("p1200", "x")], ids=ids
        )
    ids.write_bytes(b"p0\n\xff\n")
    assert f"{ids}, line 2: 'utf-8' codec" in refused(tmp_path / "a.npy", ids=ids)
    ids = tmp_path / "ids.jsonl"
    ids.write_text('"p0"\n[1]\n')
    assert f"{ids}, line 2: an id is expected" in refused(tmp_path / "a.npy", ids=ids)
    ids.write_text('"p0"\n"\\ud800"\n')
    assert f"{ids}, line 2: the id has the lone surrogate" in refused(tmp_path / "a.npy", ids=ids)
    assert "ids go with one .npy file" in refused([tmp_path / "a.npy"] * 2, ids=ids)
    assert "cannot be read: No such file" in refused(tmp_path / "a.npy", ids=tmp_path / "none")


def test_numpy_arrays_of_another_form(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    for array, message in [
        (VECTORS.astype(np.float64), "dtype float64, expected float32 or float16: .*astype"),
        (VECTORS.astype(">f4"), "dtype >f4"),
        (VECTORS.astype(np.int32), "dtype int32"),
        (VECTORS[0], r"shape \[16\], expected \[vectors, dimensions\]"),
        (VECTORS[:, :8], "a.npy, vector 0: 8 dimensions, the knowledge base has 16"),
        (np.array([[{}]], dtype=object), "no whole .npy file"),
    ]:
        np.save(path, array)
        with pytest.raises(VectorFileError, match=message):
            imported([path], PASSAGES)
    vectors = VECTORS.copy()
    vectors[600, 3] = np.nan
    vectors[601, 3] = np.inf
    np.save(path, vectors)
    assert "vector 600: it holds NaN or infinity" in refused(path)
    np.save(path, np.concatenate([VECTORS, VECTORS[:1]]))
    assert f"{path}, vector 1200: there are no more passages" in refused(path)


def test_damaged_numpy_files(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, VECTORS[:4])
    data = path.read_bytes()
    generator = random.Random(4)
    refusals = 0
    for _ in range(1000):
        damaged = bytearray(data)
        damaged[generator.randrange(128)] = generator.randrange(256)
        path.write_bytes(damaged[: generator.choice((len(data), 130, 50, 7, 0, len(data)))])
        try:
            for batch in read_vectors(path, dim=DIM):
                assert batch.vectors.shape == (4, DIM)
        except VectorFileError:
            refusals += 1
    assert refusals > 700


@pytest.mark.parametrize(
    "shape", [(2**62, DIM), (2**31, 2**33), (2**64, 2**64), (-1, DIM), (0, 2**62), (True, DIM)]
)
def test_shapes_that_no_file_has(tmp_path: Path, shape: tuple[int, int]) -> None:
    path = tmp_path / "a.npy"
    with path.open("wb") as stream:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)  # type: ignore[no-untyped-call]
        stream.write(bytes(4 * DIM))
    assert "a.npy is no whole .npy file of numbers" in refused(path)


def test_an_archive_under_the_name_of_an_array(tmp_path: Path) -> None:
    with (tmp_path / "a.npy").open("wb") as stream:
        np.savez_compressed(stream, vectors=VECTORS)
    assert "a.npy is no whole .npy file of numbers: the magic string is not correct" in refused(
        tmp_path / "a.npy"
    )
    assert "the opcode b'P' has no place" in refused((tmp_path / "a.npy").rename(tmp_path / "a.npz"))


def test_no_room_for_passages_that_wait(tmp_path: Path) -> None:
    many = [Passage(f"p{i}", "text " * 1000) for i in range(2000)]
    path = tmp_path / "shard"
    path.write_bytes(pickle.dumps([("p1999", VECTORS[0])]))
    with (
        contextlib.closing(VectorImport([path], dim=DIM, passages=many)) as reader,
        no_file_above(1_000_000),
        pytest.raises(VectorFileError, match=r"a temporary file cannot be written .*SQLITE_TMPDIR"),
    ):
        list(reader)


def test_pickles_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "shard"
    for pairs, message in [
        ([("p0", VECTORS[0]), ("p1", VECTORS[1][:8])], "vector 1: 8 dimensions, the knowledge base has 16"),
        ([("p0", VECTORS[0]), ("p9999", VECTORS[1])], "vector 1: no passage has its id 'p9999'"),
        ([("p0", VECTORS[0].astype(np.float64))], "dtype float64, expected float32 or float16"),
        ([("p0", VECTORS[0]), ("p1", VECTORS[1] * np.float32("nan"))], "vector 1: it holds NaN or infinity"),
        ([("p\ud800", VECTORS[0])], "is no Unicode text"),
        (
            [("p5", VECTORS[0]), ("p6", VECTORS[0]), ("p5", VECTORS[0])],
            "id 'p5' is also that of .*shard, vector 0",
        ),
    ]:
        path.write_bytes(pickle.dumps(pairs))
        with pytest.raises(VectorFileError, match=message):
            imported([path], PASSAGES)
    path.write_bytes(pickle.dumps([("p0", VECTORS[0])]))
    assert "shard, vector 0: its id 'p0' is also that of" in refused([path, path])
    assert "has vectors only: name the passages too" in refused(path, None)
    path.write_bytes(b"text file\n")
    assert "shard, byte 2: the opcode" in refused(path)
    assert "no such file of vectors" in refused(tmp_path / "none")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """What `export_dataset` writes."""
    with KnowledgeBase.create(tmp_path / "kb", encoder=HashingEncoder(DIM)) as kb:
        kb.upsert(PASSAGES, VECTORS)
        kb.export_dataset(tmp_path / "set")
    return tmp_path / "set"


def test_an_exported_dataset_comes_back(dataset: Path) -> None:
    check(imported([dataset], None))
    assert "has its own texts" in refused(dataset)


def test_a_dataset_that_datasets_has_saved(tmp_path: Path) -> None:
    import datasets

    columns = {
        "title": [p.title for p in PASSAGES],
        "text": [p.text for p in PASSAGES],
        "embeddings": [v.tolist() for v in VECTORS],
        "year": [None, 5] * (COUNT // 2),
    }
    features = datasets.Features(
        {
            "title": datasets.Value("string"),
            "text": datasets.Value("string"),
            "embeddings": datasets.Sequence(datasets.Value("float32")),
            "year": datasets.Value("int32"),
        }
    )
    made = datasets.Dataset.from_dict(columns, features=features)
    made.save_to_disk(str(tmp_path / "set"), num_shards=3)
    found = imported([tmp_path / "set"], None)
    assert list(found) == [str(i) for i in range(COUNT)]
    assert found["7"][0] == Passage("7", "word7 text", "title 7", {"year": 5})
    assert np.stack([v for _, v in found.values()]).tobytes() == VECTORS.tobytes()
    datasets.DatasetDict({"train": made.select(range(3))}).save_to_disk(str(tmp_path / "splits"))
    assert "has several splits" in refused(tmp_path / "splits", None)
    assert len(imported([tmp_path / "splits" / "train"], None)) == 3


def test_damaged_datasets(dataset: Path) -> None:
    path = dataset / "data-00000-of-00001.arrow"
    data = path.read_bytes()
    generator = random.Random(5)
    for _ in range(60):
        damaged = bytearray(data)
        for _ in range(generator.choice((1, 5))):
            damaged[generator.randrange(len(data) if generator.random() < 0.5 else 2000)] ^= (
                1 << generator.randrange(8)
            )
        path.write_bytes(damaged[: generator.choice((len(data), len(data) // 2, 100, len(data)))])
        try:
            imported([dataset], None)
        except VectorFileError as error:
            assert str(dataset) in str(error)  # noqa: PT017
    path.unlink()
    assert "cannot be read as an Arrow stream" in refused(dataset, None)
    for state in (
        '{"_data_files": [{"filename": "../x"}]}',
        "[]",
        "{",
        '{"_data_files": 1}',
        '{"_data_files": [1]}',
    ):
        (dataset / "state.json").write_text(state)
        assert "is not as datasets writes it" in refused(dataset, None)
    (dataset / "state.json").unlink()
    assert "is no datasets folder" in refused(dataset, None)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": ["a"]}, "text and embeddings are expected"),
        ({"text": ["a"], "embeddings": ["b"]}, "of type string, expected lists of float32"),
        ({"text": ["a"], "embeddings": [["b"]]}, "embeddings of string"),
        ({"text": ["a"], "embeddings": [[1.0] * DIM]}, "dtype float64"),
        ({"text": ["a", "b"], "embeddings": [[1.0], [1.0, 2.0]]}, "row 1: 2 dimensions, those before have 1"),
        ({"text": ["a", "b"], "embeddings": [[1.0], None]}, "rows 0 to 1: embeddings with null"),
        ({"text": ["a"], "embeddings": [[None]]}, "embeddings with null|embeddings of null"),
        ({"text": [None], "embeddings": np.ones((1, DIM), np.float32)}, "row 0: no text in passage '0'"),
        ({"text": [" "], "embeddings": np.ones((1, DIM), np.float32)}, "row 0: no text in passage '0'"),
        ({"text": ["a"], "embeddings": np.ones((1, 3), np.float32)}, "vector 0: 3 dimensions"),
        (
            {"id": ["x", "x"], "text": ["a", "b"], "embeddings": np.ones((2, DIM), np.float32)},
            "id 'x' is also that of",
        ),
        (
            {"text": ["a"], "metadata": ["{"], "embeddings": np.ones((1, DIM), np.float32)},
            "metadata is not JSON",
        ),
    ],
)
def test_datasets_of_another_form(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    arrays = {
        k: pyarrow.array(list(v)) if isinstance(v, np.ndarray) else pyarrow.array(v)
        for k, v in columns.items()
    }
    save(pyarrow.table(arrays), tmp_path)
    with pytest.raises(VectorFileError, match=message):
        imported([tmp_path], None)


def save(table: pyarrow.Table, folder: Path) -> None:
    with (
        pyarrow.OSFile(str(folder / "data.arrow"), "wb") as sink,
        pyarrow.ipc.new_stream(sink, table.schema) as out,
    ):
        out.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))


@pytest.mark.parametrize("within", ["itself", "a list", "a struct"])
def test_a_small_dataset_of_large_texts_is_refused(tmp_path: Path, within: str) -> None:
    shared = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 500), pyarrow.array(["x" * 1_000_000]))
    column = {
        "itself": lambda: shared,
        "a list": lambda: pyarrow.ListArray.from_arrays(pyarrow.array(range(501), pyarrow.int32()), shared),
        "a struct": lambda: pyarrow.StructArray.from_arrays([shared], ["inner"]),
    }[within]()
    vectors = pyarrow.array(list(np.ones((500, DIM), np.float32)))
    save(
        pyarrow.table({"text": pyarrow.array(["t"] * 500), "embeddings": vectors, "large": column}), tmp_path
    )
    assert (tmp_path / "data.arrow").stat().st_size < 1_200_000
    tracemalloc.start()
    try:
        assert "the column large is of type" in refused(tmp_path, None)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10_000_000


def test_memory_is_bounded(tmp_path: Path) -> None:
    rows, dim = 6000, 512
    np.save(tmp_path / "a.npy", np.ones((rows, dim), dtype=np.float32))
    order = random.Random(6).sample(range(rows), rows)
    (tmp_path / "ids.txt").write_text("".join(f"{i}\n" for i in order))
    passages = (Passage(str(i), "x" * 2000) for i in range(rows))
    tracemalloc.start()
    try:
        reader = VectorImport([tmp_path / "a.npy"], dim=dim, passages=passages, ids=tmp_path / "ids.txt")
        assert sum(len(batch.vectors) for batch in reader) == rows
        reader.close()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8_000_000
