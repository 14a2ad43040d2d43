"""The exit codes of `offerflow`: documented in docs/cli.md, and stable. Scripts may branch on them."""

from enum import IntEnum


class Exit(IntEnum):
    OK = 0
    ERROR = 1  # anything that no other code names
    USAGE = 2  # a bad option, or an invalid file
    NOT_FOUND = 3  # no such job, task, agent or shard
    REFUSED = 4  # the master understood and said no
    UNREACHABLE = 5  # no master answers at the address
    JOB_FAILED = 6  # `job submit --wait`: the job ended, not as finished
    UNAUTHORIZED = 7  # the token is missing or wrong
    INTERRUPTED = 130  # Ctrl-C: 128 + SIGINT, as shells have it


MEANINGS: dict[Exit, str] = {
    Exit.OK: "done",
    Exit.ERROR: "an error that no other code names",
    Exit.USAGE: "a bad option or argument, or an invalid file",
    Exit.NOT_FOUND: "no such job, task, agent or shard",
    Exit.REFUSED: "the master understood the request and refused it",
    Exit.UNREACHABLE: "no master answers at the address, or the connection broke and stayed broken",
    Exit.JOB_FAILED: "`job submit --wait`: the job ended as failed or cancelled",
    Exit.UNAUTHORIZED: "the token is missing, or the master does not accept it",
    Exit.INTERRUPTED: "ended by Ctrl-C",
}
