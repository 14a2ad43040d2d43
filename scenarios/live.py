"""A scenario with real processes: a broker, a master and agents of this machine, in real time.

What can be injected live is: the death and return of any of them, stopping and continuing them, cordoning and
draining. Everything else that breaks is the network's or a device's, which this machine does not have: such faults are
refused by name before anything starts. Tasks sleep as long as the file says; links are this machine's loopback, but
uplinks are emulated. The master records what it hears, and the laws are checked on the recording.
"""

import asyncio
import contextlib
import hashlib
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from federation.broker import Broker, find_mosquitto, free_port, start_broker
from federation.cli.client import Client
from federation.cli.exits import CommandError
from federation.config import MasterConfig
from federation.errors import ConfigError, OfferflowError
from federation.facts import Fact
from federation.jobs import Job
from federation.journal import Journal
from federation.master import Master
from scenarios.faults import Fault, KillFault, MaintenanceFault, PauseFault, ends_us, sentence
from scenarios.format import Scenario
from scenarios.injection import Incident
from scenarios.player import START_US, Outcome, Submission
from scenarios.replay import laws_of_recording
from scenarios.transport import LinkSpec
from scenarios.world import AgentSpec, World

AGENTS_NAMED_MAX = 3  # in one sentence of what cannot be done
AGENTS_MAX = 32  # processes of some 40 MB each
SHARDS_BYTES_MAX = 2**30  # of made-up content on this machine's disk
START_S = 60.0
STOP_S = 10.0
POLL_S = 0.1
NOTE = "live: real processes on this machine, links are its loopback; only uplinks are emulated, speeds are not"


def refusals(scenario: Scenario) -> tuple[str, ...]:
    """What of it cannot be done live; empty where all can."""
    world = scenario.world
    found = [f"fault {number}: {sentence(fault)}" for number, fault in enumerate(world.faults, 1) if not _can(fault)]
    if len(world.agents) > AGENTS_MAX:
        found.append(f"{len(world.agents)} agents; {AGENTS_MAX} processes are the most")
    found += _of("the GPUs of {}", [spec for spec in world.agents if spec.total.gpus])
    found += _of("what {} falsely claims", [spec for spec in world.agents if spec.real_cpu_milli is not None])
    found += _of(
        "the uplink of {}, whose directions differ or that delays or loses what passes",
        [spec for spec in world.agents if spec.uplink is not None and not _is_plain(spec.uplink)],
    )
    if world.variations:
        found.append("links that vary")
    found += [f"the framework {spec.name}" for spec in world.frameworks]
    jobs = {arrival.job.name: arrival.job for arrival in world.arrivals}
    found += [f"what the gang of {name} says to each other" for name, job in jobs.items() if _talks(job)]
    if any(arrival.behaviours for arrival in world.arrivals):
        found.append("tasks that fail or crash their agent by chance")
    n_bytes = sum(shard.size_bytes for shard in world.shards)
    n_bytes += sum(shard.size_bytes for arrival in world.arrivals for shard in arrival.shards)
    if n_bytes > SHARDS_BYTES_MAX:
        found.append(f"{n_bytes / 2**30:.1f} GiB of shards; 1 GiB is the most")
    return tuple(found)


def _of(sentence: str, specs: list[AgentSpec]) -> list[str]:
    """One sentence of all these agents, of many by the first few."""
    if not specs:
        return []
    names = ", ".join(spec.agent_id for spec in specs[:AGENTS_NAMED_MAX])
    more = f" and {len(specs) - AGENTS_NAMED_MAX} more" if len(specs) > AGENTS_NAMED_MAX else ""
    return [sentence.format(names + more)]


def _is_plain(line: tuple[LinkSpec, LinkSpec]) -> bool:
    return line[0] == line[1] == LinkSpec(rtt_us=0, bandwidth_bps=line[0].bandwidth_bps)


def _talks(job: Job) -> bool:
    return any(group.gang and group.communication is not None for group in job.tasks)


def _can(fault: Fault) -> bool:
    match fault:
        case KillFault(target=target, point=point, power=power):
            return point == "now" and not power and (target != "broker" or find_mosquitto() is not None)
        case PauseFault() | MaintenanceFault():
            return True
        case _:
            return False


def play_live(scenario: Scenario, policy: str, folder: Path, on_progress: Callable[[int, int], None]) -> Outcome:
    """Run it in `folder`, which must be empty. Raises `ConfigError` naming all that cannot be injected, and
    `OfferflowError` where a process does not start."""
    refused = refusals(scenario)
    if refused:
        raise ConfigError(f"{scenario.path} cannot run live, because of {'; '.join(refused)}")
    live = _Live(scenario.world, policy, folder, on_progress)
    return live.outcome(asyncio.run(live.run()))


class _Live:
    def __init__(self, world: World, policy: str, folder: Path, on_progress: Callable[[int, int], None]) -> None:
        self._world = world
        self._policy = policy
        self._folder = folder
        self._on_progress = on_progress
        self._client = Client(f"http://127.0.0.1:{free_port()}", timeout_s=5.0)
        self._processes: dict[str, asyncio.subprocess.Process] = {}  # "" is the master
        self._broker: Broker | None = None
        self._n_masters = 0
        self._submissions: list[Submission] = []
        self._incidents: dict[int, Incident] = {}
        self._origin_us = 0

    async def run(self) -> int:
        """How long it took, µs."""
        try:
            self._broker = await start_broker(self._folder / "broker")
            await self._start("")
            for spec in self._world.agents:
                self._lay_out(spec)
                await self._start(spec.agent_id)
            await self._until_online(tuple(spec.agent_id for spec in self._world.agents), START_S)
            self._origin_us = time.time_ns() // 1000
            ended_us = await self._follow()
            await self._cancel_all()
        finally:
            await self._stop()
        return ended_us

    async def _follow(self) -> int:
        """Jobs and faults at their times, until all is over; how long that took."""
        world = self._world
        tasks = [asyncio.create_task(self._submit(index)) for index in range(len(world.arrivals))]
        tasks += [asyncio.create_task(self._inject(index, fault)) for index, fault in enumerate(world.faults)]
        try:
            while self._now_us() < world.duration_us:
                self._on_progress(self._now_us(), world.duration_us)
                for task in tasks:
                    if task.done():
                        task.result()  # What failed there fails here.
                if all(task.done() for task in tasks) and not world.to_the_end and await self._all_ended():
                    break
                await asyncio.sleep(POLL_S)
            return self._now_us()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _now_us(self) -> int:
        return time.time_ns() // 1000 - self._origin_us

    async def _sleep_until(self, at_us: int) -> None:
        await asyncio.sleep(max(0, at_us - self._now_us()) / 1e6)

    # --- jobs --------------------------------------------------------------------------------------------------------

    async def _submit(self, index: int) -> None:
        arrival = self._world.arrivals[index]
        await self._sleep_until(arrival.at_us)
        for shard in arrival.shards:
            await asyncio.to_thread(self._write_shard, shard.agent_id, shard.name, shard.size_bytes)
        asked_us = self._now_us()
        while True:  # As the command line does while a master is away.
            try:
                view = await asyncio.to_thread(self._client.submit, live_job(arrival.job), str(index))
            except CommandError:
                await asyncio.sleep(1.0)
            else:
                self._submissions.append(Submission(arrival=index, job_id=view.job_id, asked_us=asked_us))
                return

    async def _all_ended(self) -> bool:
        try:
            jobs = await asyncio.to_thread(self._client.jobs)
        except CommandError:
            return False
        return all(job.ended_us is not None for job in jobs)

    async def _cancel_all(self) -> None:
        """What is still open sleeps on in processes of its own."""
        with contextlib.suppress(CommandError):
            for job in await asyncio.to_thread(self._client.jobs):
                if job.ended_us is None:
                    await asyncio.to_thread(self._client.cancel_job, job.job_id)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_S):
                    while not await self._all_ended():  # noqa: ASYNC110 - the master is another process
                        await asyncio.sleep(POLL_S)

    # --- faults ------------------------------------------------------------------------------------------------------

    async def _inject(self, index: int, fault: Fault) -> None:
        await self._sleep_until(fault.at_us)
        began_us = self._now_us()
        touched: tuple[str, ...] = ()
        match fault:
            case KillFault():
                touched = await self._kill(fault)
            case PauseFault(target=target, agents=agents, until_us=until_us):
                touched = ("",) if target == "master" else agents
                self._signal(touched, signal.SIGSTOP)
                await self._sleep_until(until_us)
                self._signal(touched, signal.SIGCONT)
            case MaintenanceFault(agents=agents, mode=mode, until_us=until_us):
                for agent_id in agents:
                    await asyncio.to_thread(self._client.set_agent_mode, agent_id, mode)
                await self._sleep_until(until_us)
                for agent_id in agents:
                    await asyncio.to_thread(self._client.set_agent_mode, agent_id, "active")
            case _:
                raise AssertionError("refused before")
        over_us = self._now_us() if ends_us(fault) is not None else None
        recovery_us = None
        if over_us is not None and not isinstance(fault, MaintenanceFault):
            agents = tuple(name for name in touched if name)
            with contextlib.suppress(TimeoutError):
                await self._until_online(agents, max(0, self._world.duration_us - over_us) / 1e6)
                recovery_us = self._now_us() - over_us
        self._incidents[index] = Incident(
            what=sentence(fault), began_us=began_us, over_us=over_us, recovery_us=recovery_us
        )

    async def _kill(self, fault: KillFault) -> tuple[str, ...]:
        """Whom it touched, started again where the file says so."""
        restarts = fault.restarts_us
        if fault.target == "broker":
            assert self._broker is not None
            port = int(self._broker.url.rpartition(":")[2])
            await self._broker.kill()
            if restarts is not None:
                await self._sleep_until(restarts[0])
                self._broker = await start_broker(self._folder / "broker", "mosquitto", port=port)
            return tuple(spec.agent_id for spec in self._world.agents)
        names = ("",) if fault.target == "master" else fault.agents
        for name in names:
            self._processes[name].kill()
            await self._processes[name].wait()
        for name, at_us in sorted(zip(names, restarts or (), strict=False), key=lambda pair: pair[1]):
            await self._sleep_until(at_us)
            await self._start(name)
        return names

    def _signal(self, names: tuple[str, ...], number: signal.Signals) -> None:
        for name in names:
            with contextlib.suppress(ProcessLookupError):
                self._processes[name].send_signal(number)

    # --- processes ---------------------------------------------------------------------------------------------------

    async def _start(self, name: str) -> None:
        assert self._broker is not None
        if name:
            arguments = ["-P", "-m", "agents", str(self._folder / f"{name}.toml"), "info"]
        else:
            self._n_masters += 1
            recording = self._folder / f"master-{self._n_masters}.rec"
            arguments = ["-m", "federation.cli.main", "master", "run", "--broker", self._broker.url]
            arguments += ["--policy", self._policy, "--http", self._client.url.removeprefix("http://")]
            arguments += ["--state-dir", str(self._folder / "master"), "--record", str(recording)]
            arguments += ["--config", str(self._write_master_config())]
        with (self._folder / f"{name or 'master'}.log").open("ab") as log:
            self._processes[name] = await asyncio.create_subprocess_exec(
                sys.executable, *arguments, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
                env=os.environ, start_new_session=True,
            )  # fmt: skip

    def _write_master_config(self) -> Path:
        """Roles are the file's."""
        path = self._folder / "master.toml"
        roles = msgspec.to_builtins(self._world.roles)
        lines = [f"[[master.roles]]\n{''.join(_toml_lines(role))}" for role in roles]
        path.write_text("\n".join(lines))
        return path

    def _lay_out(self, spec: AgentSpec) -> None:
        assert self._broker is not None
        shards = self._folder / "shards" / spec.agent_id
        shards.mkdir(parents=True)
        settings: dict[str, object] = {
            "agent_id": spec.agent_id, "site": spec.site, "tier": spec.tier, "region": spec.region,
            "hardware": spec.hardware, "speed_milli": spec.speed_milli,
            "price_microusd_per_cpu_hour": spec.price_microusd_per_cpu_hour,
            "cpu_milli": spec.total.cpu_milli, "memory_bytes": spec.total.memory_bytes,
            "disk_bytes": spec.total.disk_bytes, "broker": self._broker.url,
            "data_dir": str(self._folder / "agents"), "shards_folder": str(shards), "shards_folder_every_us": 1_000_000,
        }  # fmt: skip
        if spec.uplink is not None:
            settings["uplink_bps"] = spec.uplink[0].bandwidth_bps
        (self._folder / f"{spec.agent_id}.toml").write_text("".join(_toml_lines(settings)))
        for shard in self._world.shards:
            if shard.agent_id == spec.agent_id:
                self._write_shard(spec.agent_id, shard.name, shard.size_bytes)

    def _write_shard(self, agent_id: str, name: str, size_bytes: int) -> None:
        """Its name first, so that equal sizes differ; then nothing much. It appears whole."""
        path = self._folder / "shards" / agent_id / name
        path.parent.mkdir(parents=True, exist_ok=True)
        head = name.encode()[:size_bytes]
        whole = self._folder / f"{hashlib.sha256(name.encode()).hexdigest()}.part"
        with whole.open("wb") as file:
            file.write(head)
            file.truncate(size_bytes)
        whole.replace(path)

    async def _until_online(self, agents: tuple[str, ...], within_s: float) -> None:
        """Until the master serves and these are in service by a process that runs. Raises `TimeoutError`."""
        async with asyncio.timeout(within_s):
            while True:
                for name, process in self._processes.items():
                    if process.returncode not in (None, -signal.SIGKILL):
                        log = self._folder / f"{name or 'master'}.log"
                        last = (log.read_text(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
                        raise OfferflowError(f"{name or 'the master'} ended ({process.returncode}): {last} (see {log})")
                with contextlib.suppress(CommandError):
                    status = await asyncio.to_thread(self._client.status)
                    views = {view.agent_id: view.state for view in await asyncio.to_thread(self._client.agents)}
                    if status.state == "serving" and all(views.get(agent_id) == "online" for agent_id in agents):
                        return
                await asyncio.sleep(POLL_S)

    async def _stop(self) -> None:
        """Agents first, so that each says goodbye; then the master, the broker last."""
        self._signal(tuple(self._processes), signal.SIGCONT)
        await asyncio.gather(*(_end(process) for name, process in self._processes.items() if name))
        if "" in self._processes:
            await _end(self._processes[""])
        if self._broker is not None:
            await self._broker.stop()

    # --- what is left of it ------------------------------------------------------------------------------------------

    def outcome(self, ended_us: int) -> Outcome:
        shift_us = START_US - self._origin_us
        journal = _read_journal(self._folder / "master" / "journal.sqlite")
        facts = tuple(msgspec.structs.replace(fact, at_us=fact.at_us + shift_us) for fact in journal)
        master = Master(MasterConfig(), self._policy)
        for fact in journal:
            master.apply(fact)
        digest = hashlib.blake2b(digest_size=16)
        for fact in facts:
            digest.update(msgspec.msgpack.encode(fact))
        broken: list[str] = []
        n_events = n_rounds = 0
        for path in (self._folder / f"master-{number}.rec" for number in range(1, self._n_masters + 1)):
            found = laws_of_recording(path, journal)
            broken += found.broken
            n_events, n_rounds = n_events + found.n_events, n_rounds + found.n_rounds
        return Outcome(
            world=msgspec.structs.replace(self._world, notes=(*self._world.notes, NOTE)),
            policy=self._policy,
            master=master,
            facts=facts,
            digest=digest.hexdigest(),
            ended_us=ended_us,
            n_events=n_events,
            n_rounds=n_rounds,
            bytes_between_sites=sum(task.fetched_bytes for task in master.core.tasks.tasks.values()),
            refused=(),
            broken_laws=tuple(broken),
            submissions=tuple(self._submissions),
            incidents=tuple(self._incidents[index] for index in sorted(self._incidents)),
            live=True,
        )


def live_job(job: Job) -> Job:
    """Its tasks sleep as long as they are to take, and write as much as they may."""
    groups = []
    for group in job.tasks:
        run_us = group.simulated_run_us or group.run_us
        writes = [f"head -c {write.bytes_max} /dev/urandom > {{out}}/{write.path}" for write in group.writes]
        command = ("sh", "-c", "; ".join((f"sleep {run_us / 1e6:.6f}", *writes)))
        groups.append(msgspec.structs.replace(group, command=command, simulated_run_us=None, artifact=None))
    return msgspec.structs.replace(job, tasks=tuple(groups))


def _toml_lines(values: dict[str, object]) -> list[str]:
    """A JSON string or number is a TOML one; a table is written inline."""
    lines = []
    for key, value in values.items():
        if isinstance(value, dict):
            inner = ", ".join(f"{name} = {msgspec.json.encode(each).decode()}" for name, each in value.items())
            lines.append(f"{key} = {{{inner}}}\n")
        elif value is not None:
            lines.append(f"{key} = {msgspec.json.encode(value).decode()}\n")
    return lines


def _read_journal(path: Path) -> tuple[Fact, ...]:
    async def read() -> tuple[Fact, ...]:
        journal: Journal[Fact] = Journal.open(path, Fact)
        try:
            found: list[Fact] = []
            seq = 0
            while some := await journal.read(seq, 1000):
                found += [fact for _, fact in some]
                seq = some[-1][0]
            return tuple(found)
        finally:
            await journal.close()

    return asyncio.run(read())


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(STOP_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
