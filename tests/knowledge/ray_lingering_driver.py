"""Drives Ray as a build does; but a worker's task for one batch does not end until the worker is killed for it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rag_infer.knowledge.distributed import driver, stream
from rag_infer.knowledge.distributed.worker import BatchEncoder

# The number of that batch.
LINGERING = 3

SECONDS_TO_LINGER = 3600.0


class LingeringEncoder(BatchEncoder):
    """Hands over the vectors of that batch, and lingers."""

    def __call__(self, batch: Mapping[str, Sequence[int]]) -> Iterator[Any]:
        table = super().__call__(batch)
        yield table
        # Who takes over finds nothing to do.
        if int(batch["item"][0]) == LINGERING and table["vectors"][0].as_py():
            time.sleep(SECONDS_TO_LINGER)


def lingering_dataset(*arguments: Any) -> Any:
    made = dataset(*arguments)
    made.context.target_max_block_size = 1  # byte: what is yielded is sent at once
    return made


if __name__ == "__main__":
    from tests.knowledge import ray_lingering_driver  # workers cannot import what __main__ defines

    dataset = stream._dataset
    stream._dataset = lingering_dataset
    stream.BatchEncoder = ray_lingering_driver.LingeringEncoder  # type: ignore[misc]
    driver.main()
