"""The root of the command line: lazy, merged groups, and every ending with its code and one sentence."""

import os
import re
import subprocess
import sys
from importlib.metadata import EntryPoint, entry_points, version

import pytest
import typer

from federation.cli import main as root
from federation.cli.main import run


@pytest.fixture
def plugged(monkeypatch: pytest.MonkeyPatch) -> list[EntryPoint]:
    """Further entry points, as an installed third-party package would bring them."""
    extra: list[EntryPoint] = []
    monkeypatch.setattr(root, "entry_points", lambda group: [*entry_points(group=group), *extra])
    return extra


theirs = typer.Typer()


@theirs.command()
def fly(high: bool = False) -> None:
    """Fly."""
    typer.echo("high" if high else "low")


@theirs.command()
def fail(how: str) -> None:
    """Fail in some way."""
    if how == "interrupt":
        raise KeyboardInterrupt
    if how == "abort":
        raise typer.Abort
    if how == "exit":
        raise typer.Exit(6)
    if how == "pipe":
        raise BrokenPipeError
    raise ModuleNotFoundError(f"No module named {how!r}", name=how)


@theirs.command("run")
def other_run() -> None:
    typer.echo("theirs")


def entry(name: str, value: str = "tests.test_cli_main:theirs") -> EntryPoint:
    return EntryPoint(name, value, root.GROUP)


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"offerflow {version('offerflow')}\n"


def test_every_registered_command_loads(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    text = capsys.readouterr().out
    assert "Not available" not in text
    for name in {point.name.partition(".")[0] for point in entry_points(group=root.GROUP)}:
        assert f"\n  {name} " in text
        assert run([name, "--help"]) == 0


def test_only_the_called_command_is_imported() -> None:
    code = (
        "import sys\nfrom federation.cli.main import run\nrun(['schema', '--help'])\n"
        "print([m for m in ('aiohttp', 'numba', 'numpy', 'aiomqtt', 'federation.cli.job') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_group_is_shared_by_packages(plugged: list[EntryPoint], capsys: pytest.CaptureFixture[str]) -> None:
    plugged.append(entry("agent.theirs"))
    assert run(["agent", "--help"]) == 0
    text = capsys.readouterr().out
    for name in ("run", "list", "drain", "fly"):
        assert f"\n  {name} " in text
    assert run(["agent", "fly", "--high"]) == 0
    assert capsys.readouterr().out == "high\n"
    assert run(["agent", "run", "--help"]) == 0
    assert "Running tasks go on" in capsys.readouterr().out, "ours comes first where names meet"


def test_a_new_command_of_a_third_party(plugged: list[EntryPoint], capsys: pytest.CaptureFixture[str]) -> None:
    plugged += [entry("bird"), entry("soar", "tests.test_cli_main:fly")]
    assert run(["bird", "fly"]) == 0
    assert run(["soar", "--high"]) == 0
    assert capsys.readouterr().out == "low\nhigh\n"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["bird", "fail", "interrupt"], 130, ""),
        (["bird", "fail", "abort"], 130, ""),
        (["bird", "fail", "exit"], 6, ""),
        (["bird", "fail", "numba"], 1, "error: the package numba is missing: pip install 'offerflow[master]'\n"),
        (["bird", "fail", "pynvml"], 1, "error: the package pynvml is missing: pip install 'offerflow[gpu]'\n"),
        (["bird", "fail", "federation"], 1, "error: this installation is damaged"),
        (["bird", "flly"], 2, "error: No such command 'flly'. Did you mean 'fly'? (see offerflow bird --help)\n"),
        (["brd"], 2, "error: No such command 'brd'. Did you mean 'bird'? (see offerflow --help)\n"),
        (["bird", "fly", "--hihg"], 2, "error: No such option: --hihg"),
        (["bird", "fail"], 2, "error: Missing argument 'how' (see offerflow bird fail --help)\n"),
        (["gone"], 1, "error: the package ghost is missing: pip install 'offerflow[master]'\n"),
        (["gone", "deep", "--er"], 1, "error: the package ghost is missing"),
        (["empty"], 1, "error: the command 'empty' is registered but not there"),
    ],
)
def test_every_ending(
    plugged: list[EntryPoint], capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, said: str
) -> None:
    plugged += [entry("bird"), entry("gone", "ghost.town:app"), entry("empty", "tests.test_cli_main:nothing")]
    assert run(arguments) == code
    errors = capsys.readouterr().err
    assert errors.startswith(said) and errors.count("\n") == (1 if said else 0)


def test_help_lists_what_cannot_be_loaded(plugged: list[EntryPoint], capsys: pytest.CaptureFixture[str]) -> None:
    plugged.append(entry("gone", "ghost.town:app"))
    assert run(["--help"]) == 0
    assert re.search(r"gone +Not available: the package ghost is missing", capsys.readouterr().out)


def test_no_arguments_show_help_and_are_a_misuse(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    assert "offerflow up" in capsys.readouterr().out


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    command = f"{sys.executable} -m federation.cli.main --help | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    reading, writing = os.pipe()
    os.close(reading)  # Gone before the first line.
    with os.fdopen(writing, "wb") as out:
        command_line = [sys.executable, "-m", "federation.cli.main", "schema", "job"]
        left = subprocess.run(command_line, stdout=out, stderr=subprocess.PIPE, text=True, check=False)
    assert (left.returncode, left.stderr) == (0, "")
