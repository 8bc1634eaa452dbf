"""A Ray cluster to work on: found by its address or started on this machine, quiet, and left when done."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

from rag_infer.errors import KnowledgeBaseError
from rag_infer.session import available_threads

LOCAL = "local"

# Vectors on their way back, texts on their way out and the encoder's files; what is more, Ray writes to the disk.
LOCAL_STORE_BYTES = 512 * 1024 * 1024

# Ray reports usage to its makers unless told not to. It writes to our stderr what it thinks of actors that restart, and
# how it may one day hide devices; what goes wrong is raised. For an address at which nobody answers it tries for three
# quarters of a minute, twenty times. Of its threads, one that outlives its cluster would look for another.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_NUM_REDIS_GET_RETRIES": "2",
    "RAY_ENABLE_AUTO_CONNECT": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # that a worker died would be printed on stdout, amid what --json prints
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}

# Ray otherwise replaces 127.0.0.1 by an address that others can reach, but where it knows no clusters. Read at import.
LOOPBACK_ONLY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


@contextlib.contextmanager
def connected(address: str, *, threads: int) -> Iterator[int]:
    """Be connected to a cluster for a ``with`` block; yields how many workers of so many threads it has room for.

    Args:
        address: "local" starts a Ray that listens on the loopback interface only, without dashboard, and ends with the
            block; "auto" or "host:port" is one that runs already.
        threads: processors of one worker.

    Raises:
        KnowledgeBaseError: Ray is not installed, the cluster cannot be reached, or none of its machines has so many
            processors.
    """
    ray = _import_ray(address)
    try:
        _start(ray, address)
        yield _room(ray, address, threads)
    finally:
        ray.shutdown()


def first_cause(error: BaseException) -> str:
    """One line on what went wrong first: the innermost exception, or the first line that Ray says of it."""
    seen = {id(error)}
    while (inner := error.__cause__ or getattr(error, "cause", None)) is not None and id(inner) not in seen:
        if not isinstance(inner, BaseException):
            break
        error = inner
        seen.add(id(error))
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _import_ray(address: str) -> Any:
    os.environ.update(
        ENVIRONMENT | (LOOPBACK_ONLY if address == LOCAL else {})
    )  # inherited by what Ray starts
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise KnowledgeBaseError(
            f"encoding on Ray needs Ray Data (pip install 'rag_infer[ray]'): {error}"
        ) from None
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what goes wrong is raised
    return ray


def _start(ray: Any, address: str) -> None:
    if address.startswith("ray://"):
        raise KnowledgeBaseError(
            f"{address} is an address of Ray Client, over which Ray Data does not stream: run this on a machine of the "
            "cluster, with --ray auto or --ray HOST:PORT"
        )
    options: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": logging.ERROR}
    if address == LOCAL:
        options |= {
            "num_cpus": available_threads(),
            "object_store_memory": LOCAL_STORE_BYTES,
            "include_dashboard": False,
        }
    try:
        ray.init(**options)
    except Exception as error:  # Ray raises RuntimeError, ValueError, ConnectionError and others of its own
        raise KnowledgeBaseError(f"no Ray cluster at {address!r}: {first_cause(error)}") from error
    if address == LOCAL and (place := ray.util.get_node_ip_address()) not in ("127.0.0.1", "::1"):
        raise KnowledgeBaseError(
            f"Ray listens at {place} and not only on the loopback interface: it was imported before it was asked for"
        )


def _room(ray: Any, address: str, threads: int) -> int:
    processors = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    room = sum(count // threads for count in processors)
    if not room:
        raise KnowledgeBaseError(
            f"a worker takes {threads} processors, as many as the encoder has threads; the largest machine of the Ray "
            f"cluster at {address!r} has {max(processors, default=0)}: give fewer with --threads"
        )
    return room
