"""What runs on the machines of a Ray cluster: workers that encode, and the desk where they fetch their texts.

Needs Ray Data; imported only where it is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rag_infer.bundle import MANIFEST, Bundle
from rag_infer.encode import TextEncoder
from rag_infer.errors import BundleError, KnowledgeBaseError
from rag_infer.version import __version__

# How many workers may begin a batch. More than one die where machines are taken away.
TRIES = 6

SECONDS_BETWEEN_SIGNS = 10.0


@dataclass(frozen=True, kw_only=True)
class ShippedEncoder:
    """The passage encoder of a bundle, on its way to workers that do not see the bundle's folder.

    Attributes:
        manifest: text of a ``bundle.json`` that names only this part.
        files: by path inside the bundle, a reference to the bytes in Ray's object store.
        dim: width of its vectors.
        threads: of one run, as a local build would use.
        versions: of the packages on which the vectors' bits depend.
    """

    manifest: str
    files: Mapping[str, Any]
    dim: int
    threads: int
    versions: Mapping[str, str]

    @classmethod
    def of(cls, bundle: Bundle, *, threads: int) -> ShippedEncoder:
        """Put an encoder into the object store of the cluster that this process is connected to.

        Raises:
            BundleError: the bundle has no passage encoder.
        """
        import ray

        part = bundle.manifest.passage_encoder
        if part is None:
            raise BundleError(f"the bundle {bundle.folder} has no passage encoder")
        records = {n: r for n, r in bundle.manifest.files.items() if n.startswith(part.path + "/")}
        manifest = replace(bundle.manifest, question_encoder=None, generator=None, files=records)
        files = {name: ray.put(np.fromfile(bundle.folder / name, dtype=np.uint8)) for name in records}
        return cls(
            manifest=manifest.to_json(), files=files, dim=part.dim, threads=threads, versions=versions()
        )

    def load(self) -> TextEncoder:
        """The encoder, made on a worker. The files are only there while it loads; each is checked as any bundle's.

        Raises:
            BundleError: a package differs in version from the machine that asked.
        """
        import ray

        if (here := versions()) != self.versions:
            raise BundleError(
                f"versions differ, and vectors might: {dict(here)} on this worker, {dict(self.versions)} where the "
                "build was started; install the same"
            )
        with tempfile.TemporaryDirectory(prefix="rag_infer-encoder-") as folder:
            for name, reference in self.files.items():
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                ray.get(reference).tofile(path)
            Path(folder, MANIFEST).write_text(self.manifest, encoding="utf-8")
            bundle = Bundle.load(folder)
            return TextEncoder.from_bundle(bundle, bundle.manifest.passage_encoder, threads=self.threads)


def versions() -> dict[str, str]:
    """Versions of what decides on the bits of a vector."""
    import onnxruntime
    import tokenizers

    return {
        "rag_infer": __version__,
        "onnxruntime": onnxruntime.__version__,
        "tokenizers": tokenizers.__version__,
    }


class Desk:
    """Where workers fetch the texts of a batch by its number. An actor; its methods run interleaved, not in parallel.

    A batch stays until its vectors are committed, so that a worker that takes over from one that died finds it. One may
    take over even later: Ray Data hands on what a worker has returned before it knows that its task has ended, and a
    task whose worker died in between is run again.
    Texts are handed out only when asked for: what Ray Data holds back for want of memory is not even read.
    """

    def __init__(self) -> None:
        self._texts: dict[int, list[Any]] = {}
        self._end: int | None = None
        self._committed = 0
        self._highest = -1
        self._begun: Counter[int] = Counter()
        self._changed = asyncio.Condition()
        self._sign = time.monotonic()

    async def supply(self, number: int, texts: list[Any]) -> None:
        """Lay out a batch: a list with one reference to its texts, a list for each call of the encoder."""
        self._sign = time.monotonic()
        async with self._changed:
            self._texts[number] = texts
            self._changed.notify_all()

    async def end(self, batches: int) -> None:
        """Tell that there are no more than so many batches."""
        async with self._changed:
            self._end = batches
            self._changed.notify_all()

    async def forget(self, number: int) -> None:
        """Clear away a batch that is committed, as all before it are."""
        self._committed = number + 1
        self._texts.pop(number, None)
        self._begun.pop(number, None)

    async def work_goes_on(self) -> None:
        """A sign of life from a worker that encodes."""
        self._sign = time.monotonic()

    async def silence(self) -> float:
        """Seconds since a batch was laid out, or a worker took one or gave another sign of life."""
        return time.monotonic() - self._sign

    async def asked(self, beyond: int) -> int:
        """Wait until a number above this was asked for; returns the highest one."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._highest > beyond)
        return self._highest

    async def take(self, number: int) -> list[Any]:
        """The reference to a batch's texts, once it is laid out; an empty list past the last batch.

        Empty too for a batch that is committed: its vectors were received, and whatever comes now is not looked at.

        Raises:
            KnowledgeBaseError: so many workers have died over this batch that another would too. (Ray Data itself
                would start another one for ever.)
        """
        if number < self._committed:
            return []
        self._begun[number] += 1
        if self._begun[number] > TRIES:
            raise KnowledgeBaseError(
                f"each of {TRIES} workers that began batch {number} died: of too little memory, most often"
            )
        async with self._changed:
            self._highest = max(self._highest, number)
            self._changed.notify_all()
            await self._changed.wait_for(
                lambda: number in self._texts or (self._end is not None and number >= self._end)
            )
        self._sign = time.monotonic()
        return self._texts.get(number, [])


class BatchEncoder:
    """Encodes batches named by their numbers; Ray Data makes one per worker.

    What goes wrong is handed back as a value, with the number it went wrong at: retried are only workers that died.
    """

    def __init__(self, desk: Any, shipped: ShippedEncoder) -> None:
        self._desk = desk
        self._shipped = shipped
        self._encoder: TextEncoder | None = None

    def __call__(self, batch: Mapping[str, Sequence[int]]) -> Any:
        """A pyarrow table of one row: number, vectors (little-endian float32), worker, failure (empty if none)."""
        import pyarrow

        number = int(batch["item"][0])
        worker = f"{platform.node()}:{os.getpid()}"
        vectors, failure = b"", ""
        try:
            vectors = self._encode(number)
        except Exception as error:
            failure = f"{type(error).__name__}: {error}"
        return pyarrow.table(
            {
                "number": pyarrow.array([number], pyarrow.int64()),
                "vectors": pyarrow.array([vectors], pyarrow.large_binary()),
                "worker": pyarrow.array([worker], pyarrow.string()),
                "failure": pyarrow.array([failure], pyarrow.string()),
            }
        )

    def _encode(self, number: int) -> bytes:
        import ray

        references = ray.get(self._desk.take.remote(number))
        if not references:
            return b""
        with _giving_signs(self._desk):
            if self._encoder is None:
                self._encoder = self._shipped.load()
            return b"".join(
                self._encoder.encode(texts).astype("<f4", copy=False).tobytes()
                for texts in ray.get(references[0])
            )


@contextlib.contextmanager
def _giving_signs(desk: Any) -> Iterator[None]:
    """Tell the desk now and then that work goes on: how long a batch takes is known to nobody."""
    done = threading.Event()

    def tell() -> None:
        while not done.wait(SECONDS_BETWEEN_SIGNS):
            desk.work_goes_on.remote()

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
