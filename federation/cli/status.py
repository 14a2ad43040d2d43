"""`offerflow status`: the master at a glance."""

from typing import TYPE_CHECKING

from federation.cli.output import Format, MasterUrl, Output, TokenFile, connect, counts, print_fields, print_json

if TYPE_CHECKING:
    from policies.model import Amount


def status(output: Output = Format.TABLE, master: MasterUrl = None, token_file: TokenFile = None) -> None:
    """The master at a glance: agents, jobs, tasks, and what is taken of what there is."""
    view = connect(master, token_file).status()
    if output is Format.JSON:
        return print_json(view)
    return print_fields(
        (
            ("master", f"{view.state}, version {view.version}, term {view.term}"),
            ("broker", view.broker),
            ("policy", f"{view.policy}, {view.n_rounds} rounds"),
            ("failing", view.policy_failure),
            ("set aside", f"{view.n_set_aside} events, a bug each; last {view.set_aside}" if view.set_aside else ""),
            ("agents", counts(view.agents)),
            ("jobs", counts(view.jobs)),
            ("tasks", counts(view.tasks)),
            ("classes", f"{view.n_demands} of pending tasks" if view.n_demands else ""),
            ("offers", str(view.n_offers)),
            ("taken", usage(view.allocated, view.total)),
        )
    )


def usage(part: "Amount", whole: "Amount") -> str:
    """`3 of 16 cores, 2 GiB of 64 GiB memory, 1 of 2 GPUs`."""
    from federation.units import about_bytes, format_cpu, format_gpus
    from policies.resources import kinds

    gpus = f", {format_gpus(kinds(part)[3])} of {whole.gpus} GPUs" if whole.gpus else ""
    return (
        f"{format_cpu(part.cpu_milli)} of {format_cpu(whole.cpu_milli)} cores, "
        f"{about_bytes(part.memory_bytes)} of {about_bytes(whole.memory_bytes)} memory{gpus}"
    )
