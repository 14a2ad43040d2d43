"""`offerflow shard`: bring data in, see where it lies, get it back."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from federation.cli.exits import CommandError, Exit
from federation.cli.output import (
    Format,
    MasterUrl,
    Output,
    TokenFile,
    connect,
    note,
    print_fields,
    print_json,
    print_table,
    say,
    upload_progress,
)

if TYPE_CHECKING:
    from federation.api import ShardView
    from federation.cli.client import Client

app = typer.Typer(help="Data shards: add, look at and get them.", no_args_is_help=True)

Ref = Annotated[
    str,
    typer.Argument(metavar="SHARD", help="A shard's name, its SHA-256, or the start of it.", show_default=False),
]


@app.command()
def add(
    files: Annotated[list[Path], typer.Argument(help="The files to add.", show_default=False)],
    name: Annotated[
        str | None,
        typer.Option(help="The name; for several files end it with / to put them under it.", show_default="file name"),
    ] = None,
    site: Annotated[
        list[str] | None, typer.Option(help="A site it may live in; repeat for more.", show_default="any")
    ] = None,
    replicas: Annotated[int, typer.Option(min=0, max=1000, help="Copies to keep on agents.")] = 0,
    output: Output = Format.TABLE,
    master: MasterUrl = None,
    token_file: TokenFile = None,
) -> None:
    """Upload files to the master's store and register them as shards."""
    from federation.artifacts import file_sha256

    if name is not None and len(files) > 1 and not name.endswith("/"):
        raise CommandError(
            Exit.USAGE, f"{len(files)} files cannot all be {name!r}; write --name {name}/ to put them under it"
        )
    client = connect(master, token_file)
    added = []
    for file in files:
        shard_name = f"{name}{file.name}" if name and name.endswith("/") else name or file.name
        try:
            shard_id, n_bytes = file_sha256(file), file.stat().st_size
        except OSError as error:
            raise CommandError(Exit.USAGE, f"cannot read {file}: {error.strerror or error}") from None
        with upload_progress(shard_name, n_bytes) as progress:
            view = client.put_shard(
                shard_id, file, name=shard_name, sites=tuple(site or ()), replicas_wanted=replicas, progress=progress
            )
        added.append(view)
        if output is Format.TABLE:
            say(f"{view.shard_id}  {view.name}")
    if output is Format.JSON:
        print_json(added)


@app.command("list")
def list_(
    glob: Annotated[str, typer.Argument(help="Only names that match, such as 'digits/*'.")] = "*",
    output: Output = Format.TABLE,
    master: MasterUrl = None,
    token_file: TokenFile = None,
) -> None:
    """Shards and who holds them."""
    from federation.units import about_bytes

    shards = connect(master, token_file).shards(glob)
    if output is Format.JSON:
        return print_json(shards)
    return print_table(
        ("shard", "name", "size", "wanted", "held by", "may live in"),
        [
            (
                shard.shard_id[:12],
                shard.name,
                about_bytes(shard.size_bytes),
                str(shard.replicas_wanted),
                _holders(shard),
                ", ".join(shard.sites) or "any site",
            )
            for shard in shards
        ],
        right=("size", "wanted"),
    )


@app.command()
def show(ref: Ref, output: Output = Format.TABLE, master: MasterUrl = None, token_file: TokenFile = None) -> None:
    """One shard."""
    from federation.units import about_bytes

    shard = find(connect(master, token_file), ref)
    if output is Format.JSON:
        return print_json(shard)
    return print_fields(
        (
            ("shard", shard.shard_id),
            ("name", shard.name),
            ("size", f"{about_bytes(shard.size_bytes)} ({shard.size_bytes} bytes)"),
            ("held by", _holders(shard)),
            ("wanted", f"{shard.replicas_wanted} replicas"),
            ("may live in", ", ".join(shard.sites) or "any site"),
        )
    )


@app.command()
def get(
    ref: Ref,
    target: Annotated[
        Path | None, typer.Option("--to", help="The file to write.", show_default="last part of the name")
    ] = None,
    master: MasterUrl = None,
    token_file: TokenFile = None,
) -> None:
    """Fetch a shard's bytes, from the master's store or from an agent that holds it, and check their hash."""
    client = connect(master, token_file)
    shard = find(client, ref)
    path = target or Path(shard.name.rsplit("/", 1)[-1] or shard.shard_id)
    if path.exists():
        raise CommandError(Exit.USAGE, f"{path} exists; name another file with --to")
    client.get_shard(shard, path)
    note(f"{shard.name or shard.shard_id} is in {path}")


def find(client: "Client", ref: str) -> "ShardView":
    """The shard of that name, hash or start of a hash. Raises `CommandError` when there is none, or more than one."""
    is_hash = len(ref) == 64 and all(char in "0123456789abcdef" for char in ref)
    if is_hash:
        return client.shard(ref)
    known = client.shards(ref)  # By a glob of names, or the start of a hash.
    found = [shard for shard in known if shard.name == ref]
    found = found or [shard for shard in known if len(ref) >= 4 and shard.shard_id.startswith(ref)]
    if not found:
        raise CommandError(Exit.NOT_FOUND, f"no shard is called {ref!r}; `offerflow shard list` shows those there are")
    if len(found) > 1:
        ids = ", ".join(shard.shard_id[:16] for shard in found[:5])
        raise CommandError(Exit.USAGE, f"{ref!r} names {len(found)} shards ({ids}, …); write more of the hash")
    return found[0]


def _holders(shard: "ShardView") -> str:
    return ", ".join([*(["the master"] if shard.in_store else []), *shard.replicas]) or "nobody"
