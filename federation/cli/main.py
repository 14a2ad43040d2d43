"""The root of `offerflow`: finds commands through entry points, loads the one that is called, and ends with its code.

Commands are registered in the entry-point group `offerflow.commands`, by us and by anyone (docs/cli.md):

- the name is the command's; the object is a function (one command) or a `typer.Typer` (a group of them);
- `NAME.SUFFIX` adds the commands of a further Typer to the group NAME, so that several packages can share one. Where
  names meet, ours come first, then the plain name, then the order of the suffixes.

Only the module of the called command is imported; `--help` of the root imports all, so they hold nothing heavy at
module level.
"""

import os
import sys
from collections.abc import Callable, Iterator, MutableMapping
from importlib.metadata import EntryPoint, entry_points, version
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup
from typer.main import get_command

from federation.cli.exits import CommandError, Exit, exit_of
from federation.errors import OfferflowError

GROUP: Final = "offerflow.commands"
# Which optional packages a missing module belongs to; any other is one of the extra `master`.
_EXTRAS: Final = {"pynvml": "gpu", "sklearn": "dev"}
_OURS: Final = ("agents", "federation", "policies", "scenarios")
# `ClickException`: click's own, or the copy that newer Typers carry.
_ClickError: Final[type[Exception]] = typer.BadParameter.__mro__[2]


class _Commands(MutableMapping[str, Any]):
    """Commands by name; each is loaded when it is looked at."""

    def __init__(self) -> None:
        self._entries: dict[str, list[EntryPoint]] = {}
        for entry in sorted(entry_points(group=GROUP), key=_precedence):
            self._entries.setdefault(entry.name.partition(".")[0], []).append(entry)
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            self._loaded[name] = _load(name, self._entries[name])
        return self._loaded[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._loaded[name] = command
        self._entries.setdefault(name, [])

    def __delitem__(self, name: str) -> None:
        del self._entries[name]
        self._loaded.pop(name, None)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)


class _Root(TyperGroup):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.commands = _Commands()

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)


app = typer.Typer(cls=_Root, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"offerflow {version('offerflow')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Place ML work at the edge or in the cloud by what agents measured of the links between.

    Start with `offerflow up`, then `offerflow job submit FILE` in another terminal.
    """


def main(arguments: list[str] | None = None) -> None:
    """Run one command and exit. Errors are one sentence on stderr; exit codes are those of `federation.cli.exits`."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """Run one command; returns its exit code."""
    try:
        result = get_command(app).main(args=arguments, prog_name="offerflow", standalone_mode=False)
        sys.stdout.flush()
    except OfferflowError as error:
        return _failed(str(error), exit_of(error))
    except _ClickError as error:
        return _misused(error)
    except ModuleNotFoundError as error:
        return _failed(_missing(error), Exit.ERROR)
    except (KeyboardInterrupt, typer.Abort):
        return Exit.INTERRUPTED
    except BrokenPipeError:
        return _reader_left()
    except SystemExit as error:  # What Typer makes of a pipe that breaks inside a command.
        if not isinstance(error.__context__, BrokenPipeError):
            raise
        return _reader_left()
    return result if isinstance(result, int) else Exit.OK


def _reader_left() -> int:
    """Who read our output has seen enough (`| head`): no error of anyone's."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return Exit.OK


def _precedence(entry: EntryPoint) -> tuple[bool, bool, str]:
    ours = entry.dist is not None and entry.dist.name == "offerflow"
    return (not ours, "." in entry.name, entry.name)


def _load(name: str, entries: list[EntryPoint]) -> Any:
    """The command, or the group that all entries make together."""
    try:
        parts = [_command_of(name, entry.load()) for entry in entries]
    except ModuleNotFoundError as error:
        return _unavailable(name, _missing(error))
    except AttributeError as error:
        return _unavailable(name, f"the command {name!r} is registered but not there ({error})")
    whole = parts[0]
    for part in parts[1:]:
        if isinstance(whole, TyperGroup) and isinstance(part, TyperGroup):
            for inner, command in part.commands.items():
                whole.commands.setdefault(inner, command)
    return whole


def _command_of(name: str, loaded: Callable[..., Any] | typer.Typer) -> Any:
    parent = typer.Typer(rich_markup_mode=None, add_completion=False)
    if not isinstance(loaded, typer.Typer):
        parent.command(name)(loaded)
        return get_command(parent)
    parent.add_typer(loaded, name=name)
    group: Any = get_command(parent)
    return group.commands[name]


def _missing(error: ModuleNotFoundError) -> str:
    module = (error.name or "").partition(".")[0]
    if module in _OURS or not module:
        return f"this installation is damaged ({error}): install offerflow again"
    return f"the package {module} is missing: pip install 'offerflow[{_EXTRAS.get(module, 'master')}]'"


def _unavailable(name: str, why: str) -> Any:
    """Stands in for a command that cannot be loaded: its help and its call both say why."""
    stub = typer.Typer(rich_markup_mode=None, add_completion=False)

    @stub.command(name, help=f"Not available: {why}", context_settings={"ignore_unknown_options": True})
    def explain(_arguments: Annotated[list[str] | None, typer.Argument(hidden=True)] = None) -> None:
        raise CommandError(Exit.ERROR, why)

    return get_command(stub)


def _misused(error: Any) -> int:
    """A wrong option or argument. Called without any, a group shows its help."""
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(error.ctx.get_help())
        return Exit.USAGE
    context = getattr(error, "ctx", None)
    where = f" (see {context.command_path} --help)" if context is not None else ""
    return _failed(f"{error.format_message().rstrip('.')}{where}", Exit.USAGE)


def _failed(sentence: str, code: int) -> int:
    typer.echo(f"error: {sentence}", err=True)
    return code


if __name__ == "__main__":
    main()
