"""`offerflow role`: whose work counts how much, and how much of everything it may have."""

from typing import TYPE_CHECKING, Annotated

import typer

from federation.cli.output import Format, MasterUrl, Output, TokenFile, connect, print_json, print_table

if TYPE_CHECKING:
    from federation.api import RoleView
    from policies.model import Amount

app = typer.Typer(help="Roles: weights and quotas.", no_args_is_help=True)

RolePath = Annotated[str, typer.Argument(metavar="ROLE", help="Such as ml/vision.", show_default=False)]


@app.command("list")
def list_(output: Output = Format.TABLE, master: MasterUrl = None, token_file: TokenFile = None) -> None:
    """All roles with weight, share and quota."""
    roles = connect(master, token_file).roles()
    if output is Format.JSON:
        print_json(roles)
    else:
        _print_roles(roles)


@app.command("set")
def set_(
    path: RolePath,
    weight: Annotated[int, typer.Option(min=1, max=1_000_000, help="Its share against its siblings.")] = 1,
    cpu: Annotated[str | None, typer.Option(help="Quota: cores, such as 64.", show_default="no limit")] = None,
    memory: Annotated[str | None, typer.Option(help="Quota: such as 256GiB.", show_default="no limit")] = None,
    disk: Annotated[str | None, typer.Option(help="Quota: such as 1TB.", show_default="no limit")] = None,
    gpus: Annotated[str | None, typer.Option(help="Quota: GPUs, such as 8 or 0.5.", show_default="no limit")] = None,
    output: Output = Format.TABLE,
    master: MasterUrl = None,
    token_file: TokenFile = None,
) -> None:
    """Set a role's weight and quota; what is not named is not limited."""
    from federation.units import parse_bytes, parse_cpu_milli, parse_gpu_milli
    from policies.model import Amount
    from policies.resources import amount_from

    quota = amount_from(
        parse_cpu_milli(cpu) if cpu else 0,
        parse_bytes(memory) if memory else 0,
        parse_bytes(disk) if disk else 0,
        parse_gpu_milli(gpus) if gpus else 0,
    )
    view = connect(master, token_file).set_role(path, weight, None if quota == Amount() else quota)
    if output is Format.JSON:
        print_json(view)
    else:
        _print_roles((view,))


def _print_roles(roles: "tuple[RoleView, ...]") -> None:
    print_table(
        ("role", "weight", "share", "running", "pending", "has", "quota"),
        [
            (
                role.path,
                str(role.weight),
                f"{role.dominant_share_ppm / 10_000:.1f}%",
                str(role.n_running),
                str(role.n_pending),
                amount_text(role.allocated) or "nothing",
                (amount_text(role.quota) if role.quota is not None else "") or "none",
            )
            for role in roles
        ],
        right=("weight", "share", "running", "pending"),
    )


def amount_text(amount: "Amount") -> str:
    """What is not zero: `64 cores, 256 GiB memory`."""
    from federation.units import about_bytes, format_cpu, format_gpus
    from policies.resources import kinds

    gpu_milli = kinds(amount)[3]
    parts = (
        f"{format_cpu(amount.cpu_milli)} cores" if amount.cpu_milli else "",
        f"{about_bytes(amount.memory_bytes)} memory" if amount.memory_bytes else "",
        f"{about_bytes(amount.disk_bytes)} disk" if amount.disk_bytes else "",
        f"{format_gpus(gpu_milli)} GPUs" if gpu_milli else "",
    )
    return ", ".join(part for part in parts if part)
