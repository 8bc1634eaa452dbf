"""Batches of texts to vectors on Ray Data: as they are asked for, and back in order. In the process that drives Ray.

Ray Data streams the batches' numbers through its workers. The texts do not pass through it, for it has no source that
is fed while it runs: workers fetch them by number from a `Desk`, which tells how far they are.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from types import TracebackType
from typing import Any

import numpy as np

from rag_infer.errors import KnowledgeBaseError, RagInferError
from rag_infer.knowledge.distributed.cluster import first_cause
from rag_infer.knowledge.distributed.messages import (
    KEPT,
    Asked,
    Begin,
    Encoded,
    End,
    Failed,
    Forget,
    Listen,
    Supply,
)
from rag_infer.knowledge.distributed.worker import BatchEncoder, Desk, ShippedEncoder

WORKERS_AT_THE_DESK = 100_000
SECONDS_TO_STOP = 10.0

# A machine that is lost, with nothing to take its place, leaves Ray Data waiting for it; so do others' jobs.
SECONDS_OF_SILENCE = 600.0
SECONDS_TO_LOOK = 10.0


class Stream:
    """Up to ``begin.batches`` batches, encoded by ``begin.workers`` workers. For a ``with`` block.

    Args:
        shipped: the encoder.
        begin: the sizes.
        tell: is told, by several threads, of batches (`Encoded`), of wishes (`Asked`) and of the end of all (`Failed`).
    """

    def __init__(self, shipped: ShippedEncoder, begin: Begin, tell: Callable[[object], None]) -> None:
        self._dim = shipped.dim
        self._batches = begin.batches
        self._tell = tell
        self._supplied = 0
        self._read_so_far = 0
        self._beyond: SimpleQueue[int | None] = SimpleQueue()
        self._waiting_since = time.monotonic()
        self._closed = threading.Event()
        self._others = set(threading.enumerate())
        self._desk = _desk()
        self._dataset = _dataset(self._desk, shipped, begin)

    def obey(self, message: object) -> None:
        """Do what the build says.

        Raises:
            KnowledgeBaseError: Ray failed.
        """
        import ray

        with _typed():
            match message:
                case Supply(number, calls):
                    self._desk.supply.remote(number, [ray.put(calls)])
                    self._supplied = number + 1
                case Listen(beyond):
                    self._beyond.put(beyond)
                case Forget(number):
                    self._desk.forget.remote(number)
                case End(batches):
                    self._desk.end.remote(batches)

    def __enter__(self) -> Stream:
        for work in (self._drain, self._answer, self._watch):
            threading.Thread(target=self._work, args=(work,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """See all threads to their end: Ray cannot be left while one of its own comes to the object store."""
        import ray

        self._closed.set()
        self._beyond.put(None)
        with contextlib.suppress(Exception):  # whatever has become of Ray, the reason is told already
            ray.kill(self._desk)  # who waits for texts gets an error, and the stream moves
        deadline = time.monotonic() + SECONDS_TO_STOP
        for thread in set(threading.enumerate()) - self._others:
            thread.join(max(deadline - time.monotonic(), 0.0))

    def _work(self, work: Callable[[], None]) -> None:
        try:
            with _typed():
                work()
        except RagInferError as error:
            if not self._closed.is_set():
                with contextlib.suppress(EOFError):  # the build is gone
                    self._tell(Failed(error))

    def _drain(self) -> None:
        """Hand over results one by one; the next is fetched when there was room for the last."""
        import ray

        # Not iter_batches: it leaves a thread behind, whose objects may be let go of too late.
        for bundle in self._dataset.iter_internal_ref_bundles():
            for block in bundle.block_refs:
                for row in ray.get(block).to_pylist():
                    if self._closed.is_set():
                        return
                    self._tell(self._read(row))
                    self._waiting_since = time.monotonic()
        raise KnowledgeBaseError(f"Ray ended after {self._read_so_far} of {self._batches} batches; {KEPT}")

    def _read(self, row: dict[str, Any]) -> Encoded:
        if row["failure"]:
            raise KnowledgeBaseError(
                f"encoding on the Ray worker {row['worker']} failed: {row['failure']}; {KEPT}"
            )
        self._read_so_far += 1
        vectors = np.frombuffer(row["vectors"], dtype="<f4").reshape(-1, self._dim)
        return Encoded(row["number"], vectors, row["worker"])

    def _answer(self) -> None:
        """Say how far workers have come, whenever that is asked for."""
        import ray

        while (beyond := self._beyond.get()) is not None:
            self._tell(Asked(ray.get(self._desk.asked.remote(beyond))))

    def _watch(self) -> None:
        """Fail if batches are with workers and nothing comes from any of them."""
        import ray

        while not self._closed.wait(SECONDS_TO_LOOK):
            waited = time.monotonic() - self._waiting_since
            if self._read_so_far >= self._supplied:
                continue
            answer = self._desk.silence.remote()
            answered, _ = ray.wait([answer], timeout=SECONDS_TO_LOOK)
            silence = min(waited, ray.get(answer)) if answered else waited
            if silence > SECONDS_OF_SILENCE:
                raise KnowledgeBaseError(
                    f"no Ray worker has given a sign of life for {silence:.0f} s, and batch {self._read_so_far} is not "
                    f"encoded: a machine is lost, or others use the cluster's processors; {KEPT}"
                )


def _desk() -> Any:
    """A desk on this machine, so that no other takes it along when it is lost."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"num_cpus": 0, "max_concurrency": WORKERS_AT_THE_DESK, "scheduling_strategy": here}
    return ray.remote(Desk).options(**options).remote()


def _dataset(desk: Any, shipped: ShippedEncoder, begin: Begin) -> Any:
    import ray

    # A block per batch: no more than one has to be encoded again when a worker dies. Items lie in blocks from the
    # start; tasks that read would compete with the workers for processors, and neither would get all it waits for.
    # Workers that die are started again, and what they did is done again, for ever: Ray Data's default, of which the
    # desk makes a number of tries (the arguments that would are deprecated).
    # One task for each: what a worker that died had begun would else be done behind one that waits for texts, which are
    # supplied when what had been begun is committed.
    numbers = list(range(begin.batches))
    dataset = ray.data.from_items(numbers, override_num_blocks=begin.batches).map_batches(
        BatchEncoder,
        fn_constructor_args=(desk, shipped),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=begin.workers, max_tasks_in_flight_per_actor=1),
        num_cpus=shipped.threads,
    )
    settings = dataset.context
    settings.execution_options.preserve_order = True
    settings.enable_progress_bars = False
    settings.print_on_execution_start = False
    settings.execution_no_progress_timeout_s = -1  # a batch takes as long as it takes; the desk hears of it
    return dataset


@contextlib.contextmanager
def _typed() -> Iterator[None]:
    try:
        yield
    except RagInferError:
        raise
    except Exception as error:
        # The desk is on this machine, and workers that die are replaced: who is gone has gone with the cluster.
        what = "the Ray cluster has gone away" if _is_lost(error) else "encoding on Ray failed"
        raise KnowledgeBaseError(f"{what}: {first_cause(error)}; {KEPT}") from error


def _is_lost(error: BaseException) -> bool:
    """Whether Ray says that a part of itself is gone."""
    from ray import exceptions

    names = ("RayActorError", "LocalRayletDiedError", "NodeDiedError", "ObjectLostError", "RaySystemError")
    return isinstance(error, tuple(getattr(exceptions, name) for name in names if hasattr(exceptions, name)))
