"""`offerflow agent list|show|drain|cordon|uncordon`: the agents as the master sees them. Running one is the agent's."""

from typing import TYPE_CHECKING, Annotated

import typer

from federation.cli.output import (
    Format,
    MasterUrl,
    Output,
    TokenFile,
    ago,
    connect,
    moment,
    print_fields,
    print_json,
    print_table,
    say,
)

if TYPE_CHECKING:
    from policies.model import Resources

app = typer.Typer(help="Run an agent, or look after those there are.", no_args_is_help=True)

AgentId = Annotated[
    str, typer.Argument(metavar="AGENT", help="An agent's id, as `agent list` shows it.", show_default=False)
]


@app.command("list")
def list_(output: Output = Format.TABLE, master: MasterUrl = None, token_file: TokenFile = None) -> None:
    """All agents: where they are, how they are, and what is free of what they have."""
    from federation.units import format_cpu, format_gpus
    from policies.gpus import milli_of

    client = connect(master, token_file)
    agents = client.agents()
    if output is Format.JSON:
        return print_json(agents)
    now_us = client.status().now_us
    return print_table(
        ("agent", "site", "tier", "state", "for", "mode", "cpu", "memory", "gpus", "tasks", "shards"),
        [
            (
                agent.agent_id,
                agent.site,
                agent.tier,
                agent.state,
                ago(agent.since_us, now_us),
                agent.mode,
                f"{format_cpu(agent.free.cpu_milli)} of {format_cpu(agent.total.cpu_milli)}",
                _memory(agent.free, agent.total),
                f"{format_gpus(milli_of(agent.free.gpus))} of {len(agent.total.gpus)}" if agent.total.gpus else "",
                str(agent.n_tasks),
                str(agent.n_shards),
            )
            for agent in agents
        ],
        right=("for", "cpu", "memory", "gpus", "tasks", "shards"),
    )


@app.command()
def show(
    agent_id: AgentId, output: Output = Format.TABLE, master: MasterUrl = None, token_file: TokenFile = None
) -> None:
    """One agent: what it is, has, offers and holds."""
    from federation.units import about_bytes, about_duration, format_cpu

    client = connect(master, token_file)
    agent = client.agent(agent_id)
    if output is Format.JSON:
        return print_json(agent)
    now_us = client.status().now_us
    offer_us = agent.offer_expires_us
    return print_fields(
        (
            ("agent", agent.agent_id),
            ("site", f"{agent.site} ({agent.tier}{', ' + agent.region if agent.region else ''})"),
            ("state", f"{agent.state} since {moment(agent.since_us)}"),
            ("mode", agent.mode),
            ("detail", agent.detail),
            ("hardware", f"{agent.hardware or 'unknown'}, speed {agent.speed_milli / 1000:.2f}"),
            ("labels", ", ".join(f"{key}={value}" for key, value in agent.labels.items())),
            ("cpu", f"{format_cpu(agent.free.cpu_milli)} free of {format_cpu(agent.total.cpu_milli)}"),
            ("memory", _memory(agent.free, agent.total)),
            ("disk", f"{about_bytes(agent.free.disk_bytes)} of {about_bytes(agent.total.disk_bytes)}"),
            ("gpus", _gpus(agent.total, agent.free)),
            ("offer", f"ends in {about_duration(max(0, offer_us - now_us))}" if offer_us is not None else "none"),
            ("tasks", str(agent.n_tasks)),
            ("shards", str(agent.n_shards)),
            ("data", agent.data_url),
            ("version", f"{agent.version}, boot {agent.boot}"),
            ("control", f"{about_bytes(agent.control_bytes)} since boot"),
            ("probes", f"{about_bytes(agent.probe_bytes)}, {about_duration(agent.measuring_cpu_us)} of CPU since boot"),
            *((("metered", f"{about_bytes(agent.wire_bytes)} since boot, headers included"),) if agent.metered else ()),
        )
    )


@app.command()
def drain(
    agent_id: AgentId, output: Output = Format.TABLE, master: MasterUrl = None, token_file: TokenFile = None
) -> None:
    """Give the agent no new work, and move its running work away."""
    _set_mode(agent_id, "draining", output, master, token_file)


@app.command()
def cordon(
    agent_id: AgentId, output: Output = Format.TABLE, master: MasterUrl = None, token_file: TokenFile = None
) -> None:
    """Give the agent no new work; what runs there goes on."""
    _set_mode(agent_id, "cordoned", output, master, token_file)


@app.command()
def uncordon(
    agent_id: AgentId, output: Output = Format.TABLE, master: MasterUrl = None, token_file: TokenFile = None
) -> None:
    """Give the agent work again, after `cordon` or `drain`."""
    _set_mode(agent_id, "active", output, master, token_file)


def _set_mode(agent_id: str, mode: str, output: Format, master: MasterUrl, token_file: TokenFile) -> None:
    agent = connect(master, token_file).set_agent_mode(agent_id, mode)
    if output is Format.JSON:
        print_json(agent)
    else:
        say(f"{agent.agent_id}  {agent.mode}  {agent.n_tasks} tasks")


def _memory(free: "Resources", total: "Resources") -> str:
    from federation.units import about_bytes

    return f"{about_bytes(free.memory_bytes)} of {about_bytes(total.memory_bytes)}"


def _gpus(total: "Resources", free: "Resources") -> str:
    from federation.units import about_bytes

    left = {gpu.uuid: gpu.milli for gpu in free.gpus}
    return "\n".join(
        f"{gpu.uuid}  {gpu.model or 'unknown model'}"
        f"{', ' + about_bytes(gpu.memory_bytes) if gpu.memory_bytes is not None else ''}"
        f"{_left(left.get(gpu.uuid, 0))}{', shared' if gpu.isolation == 'shared' else ''}"
        for gpu in total.gpus
    )


def _left(milli: int) -> str:
    if 0 < milli < 1000:
        return f", {milli / 10:g} % free"
    return ", free" if milli else ", taken"
