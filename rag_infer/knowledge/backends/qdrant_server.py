"""The client of a Qdrant server: made of an address, its errors made ours, and reads that are tried again."""

from __future__ import annotations

import contextlib
import os
import pickle
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
from qdrant_client import QdrantClient
from qdrant_client.http.exceptions import ApiException, ResponseHandlingException, UnexpectedResponse

from rag_infer.errors import CorruptIndexError, KnowledgeBaseError
from rag_infer.knowledge.backends.address import QDRANT_FILE, QDRANT_TLS, Address

T = TypeVar("T")

ATTEMPTS = 3
PAUSE = 0.2

_ERRORS = (ApiException, httpx.HTTPError, OSError, RuntimeError, ValueError)
# What the local mode lets through of files that are not as it wrote them.
_LOCAL_ERRORS = (sqlite3.Error, pickle.PickleError, EOFError, LookupError, TypeError, AttributeError)


class LostServerError(KnowledgeBaseError):
    """The server cannot be reached, or did not answer."""


class Server:
    """A Qdrant server, or a folder in qdrant-client's local mode.

    Args:
        address: where it is.
        make: whether to make the folder where there is none.

    Raises:
        KnowledgeBaseError: there is no such folder, or it is in use by another process.
    """

    def __init__(self, address: Address, *, make: bool = False) -> None:
        self.address = address
        self.local = address.kind == QDRANT_FILE
        if self.is_nowhere(address) and not make:
            raise KnowledgeBaseError(
                f"no knowledge base at {address.shown} (make one with 'rag-infer index build')"
            )
        self._closed = False
        self._process = os.getpid()
        # The local mode is for one thread at a time.
        self._turn: contextlib.AbstractContextManager[object] = (
            threading.RLock() if self.local else contextlib.nullcontext()
        )
        self._client: QdrantClient = self._typed(self._connect)

    @staticmethod
    def is_nowhere(address: Address) -> bool:
        """Whether it is a folder that is not there."""
        return address.kind == QDRANT_FILE and not Path(address.target).is_dir()

    def read(self, work: Callable[[QdrantClient], T]) -> T:
        """What ``work`` returns; it is repeated where the server did not answer, so it must be repeatable.

        Raises:
            LostServerError: it did not answer, several times.
            KnowledgeBaseError: it refuses.
        """
        client = self._open_client()
        with self._turn:
            for attempt in range(1, ATTEMPTS):
                try:
                    return self._typed(lambda: work(client))
                except LostServerError:
                    time.sleep(PAUSE * 2 ** (attempt - 1))
            return self._typed(lambda: work(client))

    def close(self) -> None:
        """Close the connections. Closing again is harmless."""
        if not self._closed:
            self._closed = True
            if os.getpid() == self._process:
                self._client.close()

    def _open_client(self) -> QdrantClient:
        if self._closed:
            raise KnowledgeBaseError(f"the knowledge base {self.address.shown} is closed")
        if os.getpid() != self._process:
            raise KnowledgeBaseError(
                f"{self.address.shown} was opened by process {self._process}, of which this is a fork: "
                "open it again in each process"
            )
        return self._client

    def _connect(self) -> QdrantClient:
        if self.local:
            folder = Path(self.address.target)
            folder.mkdir(parents=True, exist_ok=True)  # only where one is to be made: see `is_nowhere`
            return QdrantClient(path=str(folder), force_disable_check_same_thread=True)
        options: dict[str, Any] = {"api_key": self.address.secret} if self.address.secret else {}
        scheme = "https" if self.address.kind == QDRANT_TLS else "http"
        return QdrantClient(
            url=f"{scheme}://{self.address.target}",
            timeout=max(1, int(self.address.timeout)),
            # It would ask the server at once, and only warn where there is none.
            check_compatibility=False,
            **options,
        )

    def _typed(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except KnowledgeBaseError:
            raise
        except _ERRORS as error:
            raise self._error(error) from error
        except _LOCAL_ERRORS as error:
            if not self.local:
                raise
            raise CorruptIndexError(
                f"{self.address.shown}: the folder is not as qdrant-client wrote it: {type(error).__name__}: {error}"
            ) from error

    def _error(self, error: Exception) -> KnowledgeBaseError:
        place = self.address.shown
        if isinstance(error, UnexpectedResponse):
            if error.status_code == 404:
                return KnowledgeBaseError(f"no whole knowledge base at {place} (HTTP status 404)")
            if error.status_code in (401, 403):
                return KnowledgeBaseError(
                    f"{place} refuses (HTTP status {error.status_code}): set QDRANT_API_KEY"
                )
            message = (
                f"{place}: HTTP status {error.status_code}: {error.content[:200].decode(errors='replace')}"
            )
            return (
                LostServerError(message) if (error.status_code or 0) >= 500 else KnowledgeBaseError(message)
            )
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        if isinstance(error, ResponseHandlingException | httpx.HTTPError):
            return LostServerError(f"{place} does not answer: {reason}")
        return KnowledgeBaseError(f"{place}: {reason}")
