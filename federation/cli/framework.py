"""`offerflow framework`: who schedules for itself here, what it runs, what it is offered and what it waits for."""

from typing import TYPE_CHECKING, Annotated

import typer

from federation.cli.output import Format, MasterUrl, Output, TokenFile, connect, print_json, print_table

if TYPE_CHECKING:
    from policies.model import Amount

app = typer.Typer(help="Frameworks: schedulers that take offers of the market.", no_args_is_help=True)

FrameworkId = Annotated[str, typer.Argument(metavar="FRAMEWORK", help="Its id.", show_default=False)]


@app.command("list")
def list_(output: Output = Format.TABLE, master: MasterUrl = None, token_file: TokenFile = None) -> None:
    """All frameworks with their tasks, offers and requests."""
    frameworks = connect(master, token_file).frameworks()
    if output is Format.JSON:
        print_json(frameworks)
        return
    print_table(
        ("framework", "name", "state", "roles", "tasks", "runs", "offers", "is offered", "requests"),
        [
            (
                view.framework_id,
                view.name,
                view.state,
                ", ".join(view.roles),
                str(sum(view.tasks.values())),
                _amount(view.running),
                str(view.n_offers),
                _amount(view.offered),
                str(len(view.requests)),
            )
            for view in frameworks
        ],
        right=("tasks", "offers", "requests"),
    )


@app.command()
def show(
    framework_id: FrameworkId, output: Output = Format.TABLE, master: MasterUrl = None, token_file: TokenFile = None
) -> None:
    """One framework: its state, tasks by state, and each request with what it waits for."""
    view = connect(master, token_file).framework(framework_id)
    if output is Format.JSON:
        print_json(view)
        return
    from federation.units import about_duration

    rows = [
        ("name", view.name),
        ("principal", view.principal or "none"),
        ("state", view.state + (f", {view.n_ignored} times it let offers lapse" if view.n_ignored else "")),
        ("roles", ", ".join(f"{role} (suppressed)" if role in view.suppressed else role for role in view.roles)),
        ("capabilities", ", ".join(view.capabilities) or "none"),
        ("failover within", about_duration(view.failover_timeout_us)),
        ("tasks", ", ".join(f"{count} {state}" for state, count in view.tasks.items()) or "none"),
        ("updates to acknowledge", str(view.n_unacknowledged)),
        ("runs", _amount(view.running)),
        ("is offered", f"{_amount(view.offered)} in {view.n_offers} offers, {view.n_filters} filters"),
    ]
    print_table((view.framework_id, ""), rows)
    if view.requests:
        print_table(
            ("request", "role", "wants", "offered", "taken", "waits"),
            [
                (
                    f"{each.request_id}{' (gang)' if each.gang else ''}",
                    each.role,
                    str(each.count),
                    str(each.n_offered),
                    str(each.n_taken),
                    "paused" if each.paused else f"kept for it: {', '.join(each.held_agents) or 'nothing'}",
                )
                for each in view.requests
            ],
            right=("wants", "offered", "taken"),
        )


def _amount(amount: "Amount") -> str:
    from federation.cli.role import amount_text

    return amount_text(amount) or "nothing"
