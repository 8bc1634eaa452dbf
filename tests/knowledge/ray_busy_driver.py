"""Drives Ray as a build does, on a cluster whose processors are all taken by something else."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rag_infer.knowledge.distributed import driver, stream
from rag_infer.knowledge.distributed.cluster import connected


@contextlib.contextmanager
def busy(address: str, *, threads: int) -> Iterator[int]:
    with connected(address, threads=threads) as room:
        import ray
        from ray.util.placement_group import placement_group

        processors = int(ray.cluster_resources()["CPU"])
        ray.get(placement_group([{"CPU": 1}] * processors).ready())
        yield room


if __name__ == "__main__":
    driver.connected = busy  # type: ignore[attr-defined]
    stream.SECONDS_OF_SILENCE = 4.0
    stream.SECONDS_TO_LOOK = 1.0
    driver.main()
