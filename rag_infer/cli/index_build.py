"""``rag-infer index build`` and ``add``: corpus files to passages, encoded here or on a Ray cluster."""

from __future__ import annotations

import argparse
import time
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_infer.cli.chunking import add_chunk_options, chunker
from rag_infer.cli.defaults import default_bundle
from rag_infer.cli.index_image import add_image_options, one_passage
from rag_infer.cli.options import show_place
from rag_infer.cli.progress import Progress
from rag_infer.cli.query_file import read_query_texts

if TYPE_CHECKING:
    from rag_infer.knowledge import KnowledgeBase, Passage, Upserted
    from rag_infer.knowledge.distributed import RayEncoder
    from rag_infer.knowledge.importers import Corpus

BATCH_SIZE = 1024


def add_build_options(parser: argparse.ArgumentParser) -> None:
    """What is read, how it is cut into passages, and where it is encoded."""
    parser.add_argument(
        "corpus", nargs="*", type=Path, help=".jsonl, .tsv (also .gz) or .parquet files, folders of images"
    )
    add_image_options(parser)
    parser.add_argument("--skip-bad-lines", action="store_true", help="count bad lines, do not stop at them")
    parser.add_argument(
        "--batch-size", type=int, default=BATCH_SIZE, help=f"passages per commit (default: {BATCH_SIZE})"
    )
    parser.add_argument(
        "--deduplicate", action="store_true", help="leave out passages whose title and text another one has"
    )
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="encode on a Ray cluster: 'auto', HOST:PORT, or 'local' for one on this machine; as many workers of "
        "--threads processors as it has room for",
    )
    add_chunk_options(parser)


def build_or_add(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Upsert a corpus and renew the index; returns what was done, and lines that tell it."""
    from rag_infer.knowledge.importers import Corpus

    if arguments.batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, got {arguments.batch_size}")
    _check_options(arguments)
    more = one_passage(arguments)
    if not arguments.corpus and not more:
        raise ValueError("expected corpus files, folders of images, or --image FILE")
    started = time.monotonic()
    with (
        Corpus(
            arguments.corpus,
            skip_bad_lines=arguments.skip_bad_lines,
            chunker=chunker(arguments),
            reference_images=arguments.reference_images,
            more=more,
        ) as corpus,
        _cluster(arguments) as cluster,
        open_or_create(arguments, cluster) as knowledge_base,
    ):
        with knowledge_base.writing():
            done = _fill(knowledge_base, corpus, arguments, cluster)
        renew_index(knowledge_base, arguments)
        counts = {
            **done._asdict(),
            "skipped": dict(corpus.skipped),
            "passages": len(knowledge_base),
            "seconds": round(time.monotonic() - started, 1),
        }
    shown = f"{done.added} added, {done.replaced} replaced, {done.unchanged} unchanged"
    lines = [f"{show_place(arguments.kb)}: {counts['passages']} passages ({shown}) in {counts['seconds']} s"]
    if done.duplicates:
        lines.append(f"left out {done.duplicates} duplicates")
    lines += [f"skipped {number} lines: {reason}" for reason, number in sorted(corpus.skipped.items())]
    return counts, lines


def _check_options(arguments: argparse.Namespace) -> None:
    """Refuse what an address does not take before hours have gone into encoding.

    Raises:
        ValueError: an option for folders.
    """
    from rag_infer.knowledge.backends.address import POSTGRESQL, is_address, parse_address

    if not is_address(arguments.kb):
        return
    address = parse_address(arguments.kb)
    given = [name for name in ("scan", "deduplicate") if getattr(arguments, name)]
    if address.kind != POSTGRESQL:  # which does not measure
        given += [name for name in ("min_recall", "queries") if getattr(arguments, name) is not None]
    if given:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ValueError(f"{address.shown}: {options} not taken at this address: leave out")


def _cluster(arguments: argparse.Namespace) -> AbstractContextManager[RayEncoder | None]:
    if arguments.ray is None:
        return nullcontext()
    if arguments.device != "cpu":
        raise ValueError(f"--ray encodes on processors: --device {arguments.device} does not go with it")
    from rag_infer.knowledge.distributed import encoding_on_ray

    bundle = arguments.bundle or default_bundle()
    return encoding_on_ray(arguments.ray, bundle=bundle, threads=arguments.threads)


def open_or_create(arguments: argparse.Namespace, cluster: RayEncoder | None = None) -> KnowledgeBase:
    """The knowledge base named; made where the verb makes one. With a cluster, that encodes."""
    from rag_infer.errors import KnowledgeBaseError
    from rag_infer.knowledge import KnowledgeBase
    from rag_infer.knowledge.backends.opening import exists

    options: dict[str, Any] = {"device": arguments.device, "threads": arguments.threads}
    options |= {"encoder": cluster} if cluster else {"bundle": arguments.bundle or default_bundle()}
    if arguments.verb in ("build", "import-vectors") and not exists(arguments.kb):
        try:
            return KnowledgeBase.create(
                arguments.kb, index=arguments.index or "auto", scan=arguments.scan or "auto", **options
            )
        except KnowledgeBaseError:
            if not exists(arguments.kb):  # else another process has just made it
                raise
    return KnowledgeBase.open(arguments.kb, **options)


def _fill(
    knowledge_base: KnowledgeBase, corpus: Corpus, arguments: argparse.Namespace, cluster: RayEncoder | None
) -> Upserted:
    """Upsert a corpus batch by batch. What is there already costs no more than reading it."""
    from rag_infer.knowledge.transaction import Upserted

    total, size, once = corpus.total(), arguments.batch_size, arguments.deduplicate
    ended: deque[list[Passage]] = deque()
    batches = _batches(iter(corpus), size, ended, chunked=arguments.chunk_size is not None)
    committed: Iterator[tuple[int, Upserted]]
    if cluster is None:
        committed = ((len(batch), knowledge_base.upsert(batch, deduplicate=once)) for batch in batches)
    else:
        most = None if total is None else -(-total // size)
        committed = cluster.upsert(knowledge_base, batches, at_most=most, deduplicate=once)
    counts = Upserted()
    with Progress(total, "passages") as progress:
        for passages, done in committed:
            counts = counts.plus(done)
            _forget_stale(knowledge_base, ended.popleft())
            progress.advance(passages)
    return counts


def renew_index(knowledge_base: KnowledgeBase, arguments: argparse.Namespace) -> None:
    """Make or renew the index as needed, showing how far it is."""
    bar: list[Progress] = []

    def advance(number: int) -> None:
        if not bar:  # most knowledge bases need no index, and then no bar
            bar.append(Progress(len(knowledge_base), "index"))
            bar[0].__enter__()
        bar[0].advance(number)

    try:
        knowledge_base.build_index(
            arguments.index,
            scan=arguments.scan,
            min_recall=arguments.min_recall,
            queries=None if arguments.queries is None else read_query_texts(arguments.queries),
            on_progress=advance,
        )
    finally:
        for shown in bar:
            shown.__exit__(None, None, None)


def _batches(
    passages: Iterator[Passage], size: int, ended: deque[list[Passage]], *, chunked: bool
) -> Iterator[list[Passage]]:
    """Batches; ``ended`` gets for each the passages that are the last chunk of their document."""
    while batch := list(islice(passages, size)):
        ended.append(
            [p for p in batch if chunked and p.metadata["chunk_number"] + 1 == p.metadata["chunk_count"]]
        )
        yield batch


def _forget_stale(knowledge_base: KnowledgeBase, ends: list[Passage]) -> None:
    """Delete chunks of earlier, longer versions of the documents that end with these."""
    from rag_infer.knowledge.chunk import forget_stale_chunks

    for passage in ends:
        place = passage.metadata
        forget_stale_chunks(knowledge_base.delete, place["chunk_document"], count=place["chunk_count"])
