"""The page on the command line is made of the commands, listings agree with each other, and shells can complete."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from federation.cli.main import app
from federation.cli.reference import renewed

ROOT = Path(__file__).parents[1]


def commands(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(f"{path} {name}".strip(), child)
    if not hasattr(command, "commands"):
        yield path, command


COMMANDS = dict(commands("", get_command(app)))


def test_the_page_is_what_the_commands_say() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    assert page == renewed(page, get_command(app)), "run `python -m federation.cli.reference`"


@pytest.mark.parametrize("path", sorted(COMMANDS))
def test_every_command_says_what_it_does(path: str) -> None:
    command = COMMANDS[path]
    assert command.help
    assert not command.help.startswith("Not available"), command.help
    for param in command.params:
        assert getattr(param, "help", "") or param.param_type_name == "argument", f"{path} {param.name}"
        assert param.param_type_name == "argument" or param.help, f"{path} {param.name}"


@pytest.mark.parametrize("path", [path for path in sorted(COMMANDS) if path.split()[-1] in ("list", "show", "status")])
def test_every_listing_takes_an_output_format(path: str) -> None:
    options = {option for param in COMMANDS[path].params for option in param.opts}
    assert {"-o", "--output"} <= options


def test_the_issues_commands_are_all_there() -> None:
    wanted = """
        up, status, events, job submit, job plan, job list, job show, job logs, job cancel, job why, task list,
        task show, task logs, task why, task kill, agent run, agent list, agent show, agent drain, agent cordon,
        agent uncordon, shard add, shard list, shard show, shard get, net matrix, schema job, master run, scenario run,
        scenario validate, scenario show, policy list, policy show, wire dump, demo
    """
    assert {" ".join(path.split()) for path in wanted.split(",")} <= set(COMMANDS)


@pytest.mark.parametrize(
    ("line", "expected"),
    [("offerflow jo", "job"), ("offerflow job sub", "submit"), ("offerflow job submit --wa", "--wait")],
)
def test_a_shell_can_complete(line: str, expected: str) -> None:
    """As bash asks: the words and the number of the one being completed, in the environment."""
    env = {
        **os.environ,
        "_OFFERFLOW_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split()) - 1),
    }
    script = "from federation.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False)
    assert expected in done.stdout.split()
