"""The agent's process: `python -m agents CONFIG [LEVEL]`, where CONFIG is a TOML file, the settings as a JSON object,
or `-` for that object on standard input.

`offerflow agent run` reads options and file, then becomes this: the command line's libraries (typer with pydantic and
rich) would cost 15 MB for as long as the agent runs. A service manager may start this directly.
"""

import asyncio
import functools
import sys
from pathlib import Path

import msgspec

from agents import logs, workers
from agents.config import AgentConfig, read_config
from agents.driver import run_agent
from agents.executors import proctree
from federation.errors import ConfigError, StorageError


def main(arguments: list[str]) -> int:
    """Returns the exit code: 0 left cleanly, 1 the journal could not be kept, 2 wrong settings."""
    if len(arguments) not in (1, 2) or (len(arguments) == 2 and arguments[1] not in logs.LEVELS):
        return _failed("write python -m agents CONFIG [debug|info|warning|error]", 2)
    logs.set_up(arguments[1] if len(arguments) == 2 else "info")
    proctree.adopt_orphans()
    build = functools.partial(workers.build, adopts_orphans=True)  # This process is the agent and nothing else.
    try:
        asyncio.run(run_agent(_config(arguments[0]), build=build))
    except ConfigError as error:
        return _failed(str(error), 2)
    except StorageError as error:
        return _failed(str(error), 1)
    return 0


def _config(argument: str) -> AgentConfig:
    if argument != "-" and not argument.startswith("{"):
        return read_config(Path(argument), {})
    try:
        return msgspec.json.decode(sys.stdin.buffer.read() if argument == "-" else argument, type=AgentConfig)
    except msgspec.DecodeError as error:
        raise ConfigError(f"the settings: {error}") from None


def _failed(sentence: str, code: int) -> int:
    sys.stderr.write(f"error: {sentence}\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
