"""The desk at which workers fetch their texts."""

from __future__ import annotations

import asyncio

import pytest

from rag_infer.errors import KnowledgeBaseError
from rag_infer.knowledge.distributed.worker import TRIES, Desk


def test_who_comes_early_waits() -> None:
    async def story() -> None:
        desk = Desk()
        early = asyncio.create_task(desk.take(1))
        assert await desk.asked(0) == 1
        await desk.supply(0, ["texts of 0"])
        assert await desk.take(0) == ["texts of 0"]
        assert not early.done()
        await desk.supply(1, ["texts of 1"])
        assert await early == ["texts of 1"]
        assert await desk.take(0) == ["texts of 0"], "a worker that takes over gets the same"

    asyncio.run(asyncio.wait_for(story(), 10))


def test_past_the_end_there_is_nothing() -> None:
    async def story() -> None:
        desk = Desk()
        beyond = asyncio.create_task(desk.take(1))
        await desk.supply(0, ["texts"])
        await desk.end(1)
        assert await beyond == []
        assert await desk.take(0) == ["texts"]

    asyncio.run(asyncio.wait_for(story(), 10))


def test_a_batch_over_which_workers_die_is_given_up() -> None:
    async def story() -> None:
        desk = Desk()
        await desk.supply(0, ["texts"])
        for _ in range(TRIES):
            await desk.take(0)
        with pytest.raises(KnowledgeBaseError, match=f"each of {TRIES} workers that began batch 0 died"):
            await desk.take(0)

    asyncio.run(asyncio.wait_for(story(), 10))


def test_who_takes_over_a_batch_that_is_committed_does_not_wait() -> None:
    """A worker that dies after its vectors were received has its task run again; it once waited here for ever."""

    async def story() -> None:
        desk = Desk()
        await desk.supply(0, ["texts"])
        await desk.supply(1, ["more texts"])
        await desk.take(0)
        await desk.forget(0)
        for _ in range(TRIES + 1):
            assert await desk.take(0) == []
        assert await desk.take(1) == ["more texts"]

    asyncio.run(asyncio.wait_for(story(), 10))
