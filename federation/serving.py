"""A whole master in this process: recovered, with its HTTP side, until a signal. `master run` and `up` share it."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Final, TextIO

import structlog

from federation.config import LiveConfig
from federation.driver import LiveMaster
from federation.errors import ConfigError
from federation.http.app import serve
from policies import registry

_PATIENCE_S: Final = 3.0  # Loading what was compiled before takes one or two.
_COLLECT_AFTER: Final = 50_000  # New objects between two looks at the newest; the interpreter's own choice is 700.


async def run_master(
    config: LiveConfig, on_ready: Callable[[LiveMaster, str], None], on_signal: Callable[[], None] | None = None
) -> None:
    """Serve until SIGTERM, SIGINT, or cancellation; `on_ready(live, url)` is called once HTTP listens.

    With `on_signal`, it is called at the first signal in place of `live.stop`; a second signal ends the process at
    once. Raises `ConfigError` and `StorageError`.
    """
    live = await asyncio.to_thread(LiveMaster.open, config)
    try:
        # Signals first: whoever got an answer may end us in order.
        with _Signals(on_signal or live.stop), rare_collections():
            async with serve(live, config.http) as serving:
                on_ready(live, serving.url)
                await live.run(serving.url)
    finally:
        await live.journal.close()


@contextlib.contextmanager
def rare_collections() -> Iterator[None]:
    """Look for cyclic garbage seldom, and never in what stands now: the books of 5,000 agents are many objects that
    stay, and walking them after every few hundred new ones was two thirds of the master's time (docs/performance.md).
    Little of ours is cyclic; what is waits in memory for some tens of thousands of objects more."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER, 20, 50)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


class _Signals:
    """Within the block the first signal calls `stop`; a second one ends the process at once, as a crash would."""

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop
        self._asked = False

    def __enter__(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._heard, number)

    def __exit__(self, *_: object) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().remove_signal_handler(number)

    def _heard(self, number: signal.Signals) -> None:
        if self._asked:
            os._exit(128 + number)
        self._asked = True
        self._stop()


def set_up_logging(level: str, form: str, stream: TextIO | None = None) -> None:
    """Our records and the libraries' warnings, one a line, to `stream` (stderr). `form` is "console" or "json"."""
    out = stream or sys.stderr
    number = getattr(logging, level.upper())
    logging.basicConfig(level=max(number, logging.WARNING), stream=out, format="%(levelname)s %(name)s: %(message)s")
    last: structlog.typing.Processor
    if form == "json":
        last = structlog.processors.JSONRenderer()
    else:
        last = structlog.dev.ConsoleRenderer(colors=out.isatty(), pad_event_to=0)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=out),
        cache_logger_on_first_use=False,
    )


def warm_up(policy: str, note: Callable[[str], None]) -> None:
    """Load the policy, and its kernels if it has any, before the first round. The first start on a machine compiles
    them, which takes a while, and says so. Raises `ConfigError` if there is no such policy."""
    waiting = threading.Timer(_PATIENCE_S, note, ["compiling kernels, once on this machine …"])
    waiting.daemon = True
    waiting.start()
    try:
        registry.load(policy)
        if "numba" in sys.modules:  # A policy without kernels starts without the second that numba takes to load.
            from policies.kernels import cache

            cache.warm_up()
    except ValueError as error:
        raise ConfigError(str(error)) from None
    finally:
        waiting.cancel()
