"""A served `World` for the command line's tests: the real core, journal, policy and HTTP, in a thread of its own."""

import asyncio
import contextlib
import io
import os
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from federation.cli import main
from federation.http.app import serve
from federation.http.settings import HttpConfig
from tests.http_world import World

T = TypeVar("T")


class Served:
    """`url` answers; `run` executes a coroutine where the world lives."""

    def __init__(self, world: World, url: str, loop: asyncio.AbstractEventLoop) -> None:
        self.world = world
        self.url = url
        self._loop = loop

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout=30)


@contextlib.contextmanager
def serving(folder: Path, **settings: Any) -> Iterator[Served]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="served-world")
    thread.start()
    stack = contextlib.AsyncExitStack()

    async def start() -> Served:
        world = World(folder)
        stack.push_async_callback(world.journal.close)
        await world.start()
        served = await stack.enter_async_context(serve(world, HttpConfig(**settings)))
        return Served(world, served.url, loop)

    async def stop() -> None:
        await stack.aclose()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    try:
        yield asyncio.run_coroutine_threadsafe(start(), loop).result(timeout=30)
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result(timeout=30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=30)
        loop.close()


class Result(NamedTuple):
    code: int
    out: str
    err: str


def offerflow(*arguments: str, env: dict[str, str] | None = None) -> Result:
    """Run a command line in this process as the console script does; one at a time, since stdout is one."""
    out, err = io.StringIO(), io.StringIO()
    kept = dict(os.environ)
    os.environ.update(env or {})
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main.run(list(arguments))
    finally:
        os.environ.clear()
        os.environ.update(kept)
    return Result(code, out.getvalue(), err.getvalue())
