"""`KnowledgeBase`: passages that can be written, read and searched."""

from __future__ import annotations

import warnings
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from rag_infer.bundle import Bundle
from rag_infer.errors import RagInferWarning
from rag_infer.knowledge import maintenance
from rag_infer.knowledge.backends.address import is_address
from rag_infer.knowledge.backup import BackupReport, backup
from rag_infer.knowledge.changes import Changes
from rag_infer.knowledge.check import CheckReport, check
from rag_infer.knowledge.encoders import BundleEncoders, Encoder, choose_encoders
from rag_infer.knowledge.exporters import export_dataset, export_jsonl
from rag_infer.knowledge.folder import check_encoder, create_folder, new_settings, sizes
from rag_infer.knowledge.head import check_head, read_head
from rag_infer.knowledge.index import check_kind, check_min_recall
from rag_infer.knowledge.moments import read_moments
from rag_infer.knowledge.opened import WRITER_TIMEOUT
from rag_infer.knowledge.revision import through_compactions
from rag_infer.knowledge.scan import check_scan_kind
from rag_infer.knowledge.schema import read_settings, read_state
from rag_infer.knowledge.verification import Verification, check_way

MIN_RECALL = 0.95


class KnowledgeBase(Changes):
    """A folder of passages and their vectors. Make one with `create`, then `open` it.

    One object may be used from several threads. Any number of processes may read while one writes; a search sees
    one revision, whole. What `upsert` and `delete` have returned from survives a crash.

    >>> import numpy as np, tempfile
    >>> from rag_infer import Passage
    >>> class Letters:  # an encoder: anything with these four attributes and `encode`
    ...     dim, similarity, fingerprint, max_length = 26, "dot", "letters", 100
    ...     def encode(self, texts):
    ...         return np.array([[t.count(chr(97 + i)) for i in range(26)] for t in texts], dtype=np.float32)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with KnowledgeBase.create(folder + "/kb", encoder=Letters()) as kb:
    ...         kb.upsert([Passage("p1", "banana"), Passage("p2", "cherry", metadata={"red": True})])
    ...         [(p.id, p.score) for p in kb.search("a", k=2)], [p.id for p in kb.search("a", where={"red": True})]
    Upserted(added=2, replaced=0, unchanged=0, duplicates=0)
    ([('p1', 3.0), ('p2', 0.0)], ['p2'])
    """

    @classmethod
    def create(
        cls,
        folder: str | Path,
        *,
        bundle: str | Path | Bundle | None = None,
        encoder: Encoder | None = None,
        index: str = "auto",
        scan: str = "auto",
        min_recall: float = MIN_RECALL,
        device: str = "cpu",
        threads: int | None = None,
        writer_timeout: float = WRITER_TIMEOUT,
        background_index: bool = False,
        rows_per_segment: int | None = None,
    ) -> KnowledgeBase:
        """Make an empty knowledge base and open it.

        Args:
            folder: must not exist, or be empty. Or an address (see `rag_infer.knowledge.backends.address`).
            bundle: whose encoders it is for.
            encoder: an encoder instead, for passages and questions.
            index: "exact", "hnsw", or "auto": exact up to 100,000 passages, HNSW above.
            scan: what the exact search reads, the answers being the same: "float32", "float16", "int8", or "auto":
                float32 up to 100,000 passages, int8 above.
            min_recall: an HNSW index that finds a smaller share of the 10 nearest passages is not used.
            device, threads: for the encoders; threads also for search, default all processors.
            writer_timeout: seconds to wait for another writer.
            background_index: as `open`.
            rows_per_segment: vectors in one file, default 256 MiB of them.

        Raises:
            ValueError: neither or both of bundle and encoder; an unknown index.
            KnowledgeBaseError: there is something in the folder.
            BundleError: the bundle is not whole, or has no passage encoder.
        """
        if is_address(folder):
            from rag_infer.knowledge.remote import RemoteKnowledgeBase

            if scan != "auto" or min_recall != MIN_RECALL or rows_per_segment is not None:
                raise ValueError(
                    "scan, min_recall and rows_per_segment are settings of folders: leave them out at an address"
                )
            options: Any = {
                "index": index,
                "device": device,
                "threads": threads,
                "writer_timeout": writer_timeout,
            }
            return RemoteKnowledgeBase.create(folder, bundle=bundle, encoder=encoder, **options)
        folder = Path(folder)
        encoders = choose_encoders(bundle, encoder, device=device, threads=threads)
        if encoders is None:
            raise ValueError("a knowledge base is made for an encoder: give bundle or encoder")
        settings = new_settings(
            encoders,
            index=check_kind(index),
            scan=check_scan_kind(scan),
            min_recall=check_min_recall(min_recall),
            rows_per_segment=rows_per_segment,
        )
        folder = folder.absolute()  # an empty folder is replaced, and "." would go on naming the old one
        create_folder(folder, settings)
        return cls(
            folder,
            encoders,
            threads=threads,
            writer_timeout=writer_timeout,
            background_index=background_index,
        )

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        bundle: str | Path | Bundle | None = None,
        encoder: Encoder | None = None,
        device: str = "cpu",
        threads: int | None = None,
        writer_timeout: float = WRITER_TIMEOUT,
        verify: str = "auto",
        background_index: bool = False,
    ) -> KnowledgeBase:
        """Open a knowledge base, in a folder or at an address.

        Without bundle and encoder, texts cannot be encoded; all else works.

        Args:
            folder: the knowledge base.
            bundle, encoder, device, threads, writer_timeout: as `create`.
            verify: record and vectors are compared with their checksums in the background; indices and images are
                whenever they are loaded. "wait": no search before that is done; "auto": so up to 64 MiB, above that
                searches go on until damage is found; "never": no check.
            background_index: renew in a thread, after upserts and deletions, what `build_index` makes; until then
                searches use what there is, and are exact for new passages. `close` stops it.

        Raises:
            KnowledgeBaseError: there is none, or it is of a newer format.
            EncoderMismatchError: it was made with another encoder.
            CorruptIndexError: the record is damaged or behind, or a vector file is missing or too short. Searches
                raise it when the verification has found damage.
            BundleError: the bundle is not whole, or has no passage encoder.
        """
        if is_address(folder):
            from rag_infer.knowledge.remote import RemoteKnowledgeBase

            options: Any = {"device": device, "threads": threads, "writer_timeout": writer_timeout}
            return RemoteKnowledgeBase.open(folder, bundle=bundle, encoder=encoder, verify=verify, **options)
        folder = Path(folder)
        noted = read_head(folder)
        knowledge_base = cls(
            folder, None, threads=threads, writer_timeout=writer_timeout, background_index=background_index
        )
        try:
            encoders = choose_encoders(bundle, encoder, device=device, threads=threads)
            if encoders is not None:
                check_encoder(folder, knowledge_base.settings, encoders)
            knowledge_base._encoders = encoders
            with knowledge_base._record.reading() as connection:
                view = through_compactions(connection, knowledge_base._views.at)
                check_head(folder, noted, view.state.revision)
            prove = partial(check, knowledge_base._writer, dim=knowledge_base.settings.dim, everything=False)
            knowledge_base._verification = Verification(prove, folder, check_way(verify))
        except BaseException:
            knowledge_base.close()
            raise
        return knowledge_base

    @classmethod
    def repair(
        cls,
        folder: str | Path,
        *,
        bundle: str | Path | Bundle | None = None,
        encoder: Encoder | None = None,
        device: str = "cpu",
        threads: int | None = None,
        writer_timeout: float = WRITER_TIMEOUT,
    ) -> CheckReport:
        """Encode damaged or missing vectors again, make the index anew where it is damaged, and check.

        Raises:
            CorruptIndexError: something else is damaged, or vectors that were given and not encoded.
            EncoderMismatchError, KnowledgeBaseError, BundleError: as `open`.
        """
        if is_address(folder):
            from rag_infer.knowledge.remote import RemoteKnowledgeBase

            return RemoteKnowledgeBase.repair(folder)
        folder = Path(folder)
        encoders = choose_encoders(bundle, encoder, device=device, threads=threads)
        if encoders is None:
            raise ValueError("repairing encodes passages again: give bundle or encoder")
        with cls(folder, encoders, threads=threads, writer_timeout=writer_timeout) as knowledge_base:
            check_encoder(folder, knowledge_base.settings, encoders)
            repaired = maintenance.repair(knowledge_base._writer, encoders)
            knowledge_base._index.repair()
            if repaired:
                knowledge_base._index.rebuild.refresh()
            return replace(knowledge_base.check(), repaired=repaired)

    def backup(self, folder: str | Path) -> BackupReport:
        """Copy the newest revision to another folder, and check the copy, while any process may go on writing.

        Raises:
            KnowledgeBaseError: there is something in the folder, or it cannot be written. Nothing half made is left.
            CorruptIndexError: something is damaged here: such a copy is not kept.
        """
        return backup(self._writer, Path(folder), dim=self.settings.dim)

    def export_jsonl(self, path: str | Path, *, embeddings: bool = False) -> int:
        """Write the passages of one revision as JSON lines that `rag-infer index build` reads; returns how many.

        Args:
            path: file to make, gzipped where it ends in ``.gz``. It appears whole or not at all. Images are written to
                a folder beside it, ``PATH.images``.
            embeddings: also each passage's vector, in ``embeddings``: a list of numbers that give the same float32. It
                is for other programs: `rag-infer index build` would take it for metadata.

        Raises:
            KnowledgeBaseError: there is such a file, or it cannot be written.
            CorruptIndexError: a passage or a vector is not as it was written.
        """
        return export_jsonl(self._writer, Path(path), embeddings=embeddings)

    def export_dataset(self, folder: str | Path) -> int:
        """Write one revision for ``datasets.load_from_disk``; returns how many passages.

        The columns are id, title, text, metadata (JSON) and embeddings (float32 ``[dim]``).

        Raises:
            KnowledgeBaseError: the folder is there and not empty, or cannot be written; pyarrow is missing; a passage
                has an image, for which such a folder has no place.
            CorruptIndexError: a passage or a vector is not as it was written.
        """
        return export_dataset(self._writer, Path(folder))

    def check_bundle(self, bundle: Bundle) -> None:
        """Refuse a bundle whose passage encoder is not the one this was made with.

        Raises:
            EncoderMismatchError: the message names both.
            BundleError: the bundle has no passage encoder.
        """
        check_encoder(self.folder, self.settings, BundleEncoders(bundle, device="cpu", threads=1))

    def check(self) -> CheckReport:
        """Compare all data with their checksums and with the record.

        Images that are only referenced are not the knowledge base's: a `RagInferWarning` tells of those that are not
        where they were.

        Raises:
            CorruptIndexError: something differs; the message names the file and the rows.
        """
        report = check(self._writer, dim=self.settings.dim)
        with self._record.reading() as connection:
            lost = self._writer.images.lost_references(connection)
        if lost:
            message = (
                f"{self.place}: the images of {len(lost)} passages, such as {lost[0]!r}, are not where they were, or "
                "not what they were: upsert these passages again"
            )
            warnings.warn(message, RagInferWarning, stacklevel=2)
        return report

    def info(self) -> dict[str, Any]:
        """Sizes, settings and the state of the index, as plain values.

        Besides the settings: ``passages``, ``images`` (passages with one), ``dead_rows`` (vectors of replaced and
        deleted passages), ``revision``, ``search`` ("exact" or "hnsw"), ``indexed_rows`` (vectors in the graph),
        ``recall`` (by k, of the graph against the exact kernel; None without a graph), ``recall_queries`` (how many)
        and ``recall_source``, ``scanned_as`` ("float32", "float16" or "int8"), ``means_of_revision`` (when the means of
        texts and images were counted, or None), ``bytes`` (by what takes them).
        """
        with self._record.reading() as connection:
            state = read_state(connection)
            settings = read_settings(connection, self._record.path)
            (images,) = connection.execute("SELECT count(*) FROM passages WHERE image != ''").fetchone()
            moments = read_moments(connection)
        manifest = self._index.rebuild.manifest(state)
        return {
            "path": str(self.folder),
            "passages": state.passages,
            "dead_rows": state.rows - state.passages,
            "images": images,
            "revision": state.revision,
            "means_of_revision": next((m.revision for m in moments.values()), None),
            **asdict(settings),
            "search": "hnsw" if state.snapshot else "exact",
            "recall": manifest.get("recall"),
            "recall_queries": manifest.get("recall_queries"),
            "recall_source": manifest.get("recall_source"),
            "indexed_rows": manifest.get("elements", 0),
            "scanned_as": self._index.rebuild.scan_manifest(state).get("kind", "float32"),
            "bytes": sizes(self.folder),
        }
