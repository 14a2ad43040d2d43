"""The exit codes of `offerflow`: documented in docs/cli.md, and stable. Scripts may branch on them."""

from enum import IntEnum

from federation.errors import ConfigError, OfferflowError


class Exit(IntEnum):
    OK = 0
    ERROR = 1  # anything that no other code names
    USAGE = 2  # a bad option, or an invalid file
    NOT_FOUND = 3  # no such job, task, agent or shard
    REFUSED = 4  # the master understood and said no
    UNREACHABLE = 5  # no master answers at the address, or it cannot serve now
    JOB_FAILED = 6  # `job submit --wait`: the job ended, not as finished
    UNAUTHORIZED = 7  # the token is missing or wrong
    INTERRUPTED = 130  # Ctrl-C: 128 + SIGINT, as shells have it


MEANINGS: dict[Exit, str] = {
    Exit.OK: "done",
    Exit.ERROR: "an error that no other code names",
    Exit.USAGE: "a bad option or argument, or an invalid file",
    Exit.NOT_FOUND: "no such job, task, agent or shard",
    Exit.REFUSED: "the master understood the request and refused it",
    Exit.UNREACHABLE: "no master answers at the address, or it cannot serve at present; trying again may help",
    Exit.JOB_FAILED: "`job submit --wait`: the job ended as failed or cancelled",
    Exit.UNAUTHORIZED: "the token is missing, or the master does not accept it",
    Exit.INTERRUPTED: "ended by Ctrl-C",
}


class CommandError(OfferflowError):
    """A command could not do what it was asked. `str()` is one sentence that says what to do."""

    def __init__(self, exit_code: Exit, sentence: str) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code


def exit_of(error: OfferflowError) -> Exit:
    """The exit code that an error of ours ends the process with."""
    if isinstance(error, CommandError):
        return error.exit_code
    return Exit.USAGE if isinstance(error, ConfigError) else Exit.ERROR
