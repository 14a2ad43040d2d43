"""Tasks as plain processes, each in a session of its own under a shell that outlives the agent.

The shell (`SUPERVISOR`) waits at a gate until the agent has journalled it, runs the command with its output bounded,
and leaves the exit code in a file by a rename. So a restarted agent finds a live task by (pid, start time) and an ended
one by its file. The file is not synced: after a power cut no task is left to ask about, and the attempt has failed.

A process tree cannot be bounded as tightly as a control group; what needs no privilege is done: resource limits, memory
and disk watched and the tree ended, every process killed that is in the session, descends from it, or carries its mark.
The shell adopts what loses its parents, so a daemon descends from it still; when it has ended, this process adopts.
"""

import asyncio
import contextlib
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

from agents.events import StepsTold, TaskEnded, TaskStarted
from agents.executors import diskuse, logs, proctree, progress
from agents.executors.attempt import Attempt, boot_s, handle_of, parse_handle, woken_at_end
from agents.executors.base import AttemptFolder, TaskUse, command_line, lay_out, task_environment
from agents.executors.throttle import throttle
from agents.logs import get_logger
from agents.ports import Post
from agents.store import OutputRefusedError, ShardStore, StoreFullError
from federation.errors import OfferflowError, PeerError
from federation.wire import HeldShard, Launch
from policies.model import Record

_log = get_logger("agents.process")

# $1: the attempt's folder, $2, $3: a block of the log in bytes, blocks of a segment; the rest: the command. `dd` moves
# each byte as it comes and reads none that it does not write. It counts short blocks too, so a segment is filled in
# several goes, and has ended once three quarters are full: else its last blocks would cost a process each.
SUPERVISOR = r"""
folder=$1 block=$2 blocks=$3
shift 3
IFS= read -r word && [ "$word" = go ] || exit 125
exec </dev/null
trap : TERM INT HUP
fill() {
  had=0
  while left=$((blocks - (had + block - 1) / block)) && [ $((left * 4)) -ge "$blocks" ]; do
    dd bs="$block" count="$left" 2>/dev/null >>"$1" || { cat >/dev/null; return 1; }
    has=$(wc -c <"$1") && [ "$has" -gt "$had" ] || return 1
    had=$has
  done
}
keep() {
  trap '' TERM INT HUP
  fill "$folder/log.head" || return
  while fill "$folder/log.1"; do
    mv "$folder/log.1" "$folder/log.0"
  done
}
{
  trap : TERM INT HUP
  "$@" 2>&1
  printf '%03d\n' $? 1<>"$folder/exit.tmp"
  mv "$folder/exit.tmp" "$folder/exit"
} | keep
"""
_YOUNG_S, _LOOK_EARLY_S = 0.5, 0.05
_FILE_SIZE_CODE = 128 + signal.SIGXFSZ


class ProcessSettings(Record, frozen=True, kw_only=True):
    look_every_s: float = 0.5  # How soon too much memory or a stray is noticed; a look costs ~3 ms.
    drain_s: float = 1.0  # What may hold the output open after the command has ended.
    nice: int = 5  # The system and the agent go first.
    open_files_max: int = 4096
    processes_max: int = 512  # of one task; beyond is a fork bomb
    file_bytes_max: int = 64 * 2**30  # of one file, where the task declares no disk
    file_bytes_min: int = 16 * 2**20  # logs and small outputs of a task that declares next to no disk
    unpack_bytes_max: int = 2 * 2**30


class ProcessExecutor:
    """See `agents.ports.Executor`. `folder` holds one folder an attempt."""

    def __init__(
        self,
        folder: Path,
        store: ShardStore,
        post: Post,
        *,
        agent_id: str,
        site: str,
        log_bytes_max: int = 4 * 2**20,
        logs_kept_bytes: int = 256 * 2**20,
        cpu_share_milli: int | None = None,
        adopts_orphans: bool = False,
        settings: ProcessSettings | None = None,
    ) -> None:
        """`adopts_orphans`: this process does, and has no children but those of this executor: any other is a stray."""
        self._root = folder
        self._store = store
        self._post = post
        self._agent_id = agent_id
        self._site = site
        self._log_bytes_max = log_bytes_max
        self._logs_kept_bytes = logs_kept_bytes
        self._cpu_share_milli = cpu_share_milli
        self._adopts_orphans = adopts_orphans
        self._settings = settings or ProcessSettings()
        self._attempts: dict[tuple[str, int], Attempt] = {}
        self._cpu_s = 0.0  # used by the tasks that have ended
        self._looked_s = 0.0
        self._processes: dict[int, proctree.Process] = {}
        self._tidying: set[asyncio.Task[None]] = set()

    # --- the port ----------------------------------------------------------------------------------------------------

    async def run(self, launch: Launch) -> None:
        """Prepare, spawn behind the gate, post `TaskStarted`; watch to the end, post `TaskEnded`."""
        attempt = Attempt(launch, AttemptFolder.of(self._root, launch.task_id, launch.attempt))
        self._attempts[launch.task_id, launch.attempt] = attempt
        try:
            try:
                await self._check_inputs(launch)
                command, env = await asyncio.to_thread(self._prepare, attempt)
                if not attempt.stop_reason:
                    self._spawn(attempt, command, env)
            except StoreFullError as error:
                await self._post(self._ended(attempt, "disk_full", detail=str(error)))
                return
            except (PeerError, OSError) as error:
                await self._post(self._ended(attempt, "start", detail=str(error)))
                return
            if attempt.process is None:
                await self._post(self._ended(attempt, attempt.stop_reason))
                return
            await self._post(TaskStarted(task_id=launch.task_id, attempt=launch.attempt, handle=handle_of(attempt)))
            await self._see_through(attempt)
        finally:
            self._close_gate(attempt)
            self._drop(attempt)

    def release(self, task_id: str, attempt: int) -> None:
        found = self._attempts.get((task_id, attempt))
        if found is None or found.released or found.stop_reason or found.process is None:
            return
        found.released, found.released_s = True, boot_s()
        (found.folder.path / "released").touch()
        assert found.process.stdin is not None
        with contextlib.suppress(OSError):  # It was killed at the gate.
            os.write(found.process.stdin.fileno(), b"go\n")
        self._close_gate(found)
        found.wake.set()

    async def adopt(self, launch: Launch, handle: str) -> None:
        """As the tail of `run`, for a process of an earlier life of this agent."""
        attempt = Attempt(launch, AttemptFolder.of(self._root, launch.task_id, launch.attempt))
        _, _, pid, started, _ = parse_handle(handle)
        attempt.pid, attempt.started, attempt.released = pid, started, True
        attempt.released_s = started / proctree.TICKS_PER_S
        self._attempts[launch.task_id, launch.attempt] = attempt
        try:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if not attempt.is_gone():
                    os.killpg(pid, signal.SIGCONT)  # It may have been stopped by a throttle that died.
            await self._see_through(attempt)
        finally:
            self._drop(attempt)

    def stop(self, task_id: str, attempt: int, grace_us: int, reason: str) -> None:
        found = self._attempts.get((task_id, attempt))
        if found is not None and not found.exit_file.exists():
            found.ask_stop(reason, grace_us / 1e6)

    def is_alive(self, handle: str) -> bool:
        try:
            kind, boot, pid, started, name = parse_handle(handle)
        except ValueError:
            return False
        if kind != "process":
            return False
        found = proctree.read_process(pid) if boot == proctree.boot_token() else None
        return (found is not None and found.started == started) or (self._root / name / "exit").exists()

    def forget(self, task_id: str, attempt: int) -> None:
        """Remove the attempt's folder but its log; drop the oldest logs past the bound."""
        if (task_id, attempt) in self._attempts:
            return
        folder = AttemptFolder.of(self._root, task_id, attempt)
        task = asyncio.get_running_loop().create_task(asyncio.to_thread(self._tidy, folder))
        self._tidying.add(task)
        task.add_done_callback(self._tidying.discard)

    def read_log(self, task_id: str, attempt: int) -> bytes | None:
        return logs.read_log(AttemptFolder.of(self._root, task_id, attempt).path)

    def use(self) -> TaskUse:
        """What the running tasks take of this machine, as of their last looks."""
        running = self._attempts.values()
        return TaskUse(
            cpu_s=self._cpu_s + sum(attempt.cpu_used_s() for attempt in running),
            memory_bytes=sum(attempt.memory_bytes for attempt in running),
        )

    def _drop(self, attempt: Attempt) -> None:
        del self._attempts[attempt.launch.task_id, attempt.launch.attempt]
        self._cpu_s += attempt.cpu_s

    # --- starting ----------------------------------------------------------------------------------------------------

    async def _check_inputs(self, launch: Launch) -> None:
        """A replica that went bad is dropped, and the attempt fails here instead of on wrong data."""
        for fetch in (*((launch.artifact,) if launch.artifact else ()), *launch.reads):
            if await self._store.verified(fetch.shard_id) is None:
                raise PeerError("start", f"shard {fetch.name or fetch.shard_id} is no longer here")

    def _prepare(self, attempt: Attempt) -> tuple[list[str], dict[str, str]]:
        folder, launch = attempt.folder, attempt.launch
        lay_out(folder, launch, self._store.path, self._settings.unpack_bytes_max)
        # Its block is taken now: a full disk later loses no exit code.
        (folder.path / "exit.tmp").write_bytes(b"...\n")
        diskuse.note_laid_out(folder)
        command, env = command_line(folder, launch)
        return command, task_environment(folder, launch, self._agent_id, self._site, attempt.mark) | env

    def _spawn(self, attempt: Attempt, command: list[str], env: dict[str, str]) -> None:
        block_bytes, blocks = logs.segment_blocks(self._log_bytes_max)
        shell = shutil.which("sh", path="/bin:/usr/bin") or "/bin/sh"
        attempt.process = subprocess.Popen(
            [shell, "-c", SUPERVISOR, "offerflow-task", str(attempt.folder.path), str(block_bytes),
             str(blocks), *command],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            cwd=attempt.folder.work, env=env | {"OFFERFLOW_RUN": attempt.mark}, start_new_session=True, bufsize=0,
            preexec_fn=proctree.adopt_orphans,
        )  # fmt: skip
        attempt.pid = attempt.process.pid
        found = proctree.read_process(attempt.pid)
        attempt.started = found.started if found else 0
        self._limit(attempt)

    def _limit(self, attempt: Attempt) -> None:
        """Before the gate opens, so that all the command starts inherits it."""
        settings, needs = self._settings, attempt.launch.needs
        file_bytes = max(needs.disk_bytes, settings.file_bytes_min) if needs.disk_bytes else settings.file_bytes_max
        for kind, value in (
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_NOFILE, settings.open_files_max),
            (resource.RLIMIT_FSIZE, file_bytes),
        ):
            _, hard = resource.prlimit(attempt.pid, kind)
            bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.prlimit(attempt.pid, kind, (bound, bound))
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, attempt.pid, settings.nice)

    def _close_gate(self, attempt: Attempt) -> None:
        """Unreleased, the supervisor reads the end of its input and goes without running anything."""
        if attempt.process is not None and attempt.process.stdin is not None:
            attempt.process.stdin.close()

    # --- watching ----------------------------------------------------------------------------------------------------

    async def _see_through(self, attempt: Attempt) -> None:
        """Until the whole tree is gone; then post how it ended."""
        slowed: asyncio.Task[None] | None = None
        async with woken_at_end(attempt), self._disk_watched(attempt):
            try:
                while not attempt.is_gone():
                    attempt.watched = True
                    if self._cpu_share_milli and attempt.released and slowed is None and not attempt.stop_reason:
                        cores = max(1, attempt.launch.needs.cpu_milli // 1000)
                        share_milli = self._cpu_share_milli * cores
                        slowed = asyncio.create_task(throttle(attempt.pid, share_milli, attempt.cpu_used_s))
                    if attempt.stop_reason and slowed is not None:
                        slowed.cancel()  # A stopped process cannot end itself.
                    self._look(attempt)
                    if (told := progress.told(attempt)) is not None:
                        await self._post(StepsTold(steps=told))
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(self._pause_s(attempt)):
                            await attempt.wake.wait()
                    attempt.wake.clear()
            finally:
                if slowed is not None:
                    slowed.cancel()
        attempt.exit_seen_s = attempt.exit_seen_s or boot_s()
        if (told := progress.told(attempt)) is not None:  # Also a short task's word counts.
            await self._post(StepsTold(steps=told))
        await self._sweep(attempt)
        await self._post(await asyncio.to_thread(self._conclude, attempt))

    @contextlib.asynccontextmanager
    async def _disk_watched(self, attempt: Attempt) -> AsyncIterator[None]:
        """A task that declares no disk is bound by the disk alone."""
        declared = attempt.launch.needs.disk_bytes
        if not declared:
            yield
            return
        bytes_max = max(declared, self._settings.file_bytes_min)

        def too_much(found: int) -> None:
            attempt.ask_stop("disk_limit", 0, f"{found} bytes written, {bytes_max} allowed ({declared} declared)")

        watching = asyncio.create_task(
            diskuse.watch(attempt.folder, bytes_max, self._settings.look_every_s, too_much), name="disk-watch"
        )
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    def _pause_s(self, attempt: Attempt) -> float:
        pause_s = self._settings.look_every_s
        if self._is_young(attempt):
            pause_s = min(pause_s, _LOOK_EARLY_S)
        if attempt.kill_at_s is not None:
            pause_s = min(pause_s, attempt.kill_at_s - time.monotonic())
        limit_us = attempt.launch.time_limit_us
        if limit_us is not None and attempt.released and not attempt.stop_reason:
            pause_s = min(pause_s, attempt.released_s + limit_us / 1e6 - boot_s())
        return max(0.001, pause_s)

    def _is_young(self, attempt: Attempt) -> bool:
        """A throttle must learn soon which processes it is to count."""
        return bool(self._cpu_share_milli) and attempt.released and boot_s() - attempt.released_s < _YOUNG_S

    def _look(self, attempt: Attempt) -> None:
        """Hold the task to its limits, and send the signals that are due."""
        if attempt.stop_reason and not attempt.released:
            self._close_gate(attempt)
        if not attempt.released:
            return
        tree = self._tree(attempt)
        if not attempt.stop_reason:
            self._check_limits(attempt, tree)
        now_s = time.monotonic()
        if attempt.exit_file.exists():  # Only what holds the output open is left.
            attempt.exit_seen_s = attempt.exit_seen_s or boot_s()
            if boot_s() - attempt.exit_seen_s >= self._settings.drain_s:
                self._kill(attempt, tree)
        elif attempt.stop_reason and attempt.kill_at_s is None:
            attempt.kill_at_s = now_s + attempt.grace_s
            proctree.signal_all(tree.values(), signal.SIGTERM)
            proctree.signal_all(tree.values(), signal.SIGCONT)
        if attempt.kill_at_s is not None and now_s >= attempt.kill_at_s:
            self._kill(attempt, tree)

    def _check_limits(self, attempt: Attempt, tree: dict[int, proctree.Process]) -> None:
        needs, grace_s = attempt.launch.needs, attempt.launch.kill_grace_us / 1e6
        limit_us = attempt.launch.time_limit_us
        if attempt.exit_file.exists():
            return
        if limit_us is not None and boot_s() >= attempt.released_s + limit_us / 1e6:
            attempt.ask_stop("time_limit", grace_s, f"it ran longer than {limit_us / 1e6:g} s")
        elif len(tree) > self._settings.processes_max:
            attempt.ask_stop("process_limit", 0, f"more than {self._settings.processes_max} processes")
        elif needs.memory_bytes and attempt.memory_bytes > needs.memory_bytes:
            # Resident sizes count shared pages once a process; before killing, ask for the fair sum.
            used = sum(proctree.pss_bytes(pid) or process.rss_bytes for pid, process in tree.items())
            if used > needs.memory_bytes:
                attempt.ask_stop("memory_limit", 0, f"{used} bytes used, {needs.memory_bytes} declared")

    def _tree(self, attempt: Attempt) -> dict[int, proctree.Process]:
        """The attempt's processes. One walk serves all attempts that look at about the same time."""
        now_s = time.monotonic()
        if now_s - self._looked_s > self._settings.look_every_s / 2 or attempt.stop_reason or self._is_young(attempt):
            self._processes, self._looked_s = proctree.walk(), now_s
        tree = proctree.members(self._processes, attempt.session, attempt.known)
        attempt.known = {(pid, process.started) for pid, process in tree.items()}
        attempt.memory_bytes = sum(process.rss_bytes for process in tree.values())
        return tree

    def _kill(self, attempt: Attempt, tree: dict[int, proctree.Process]) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(attempt.pid, signal.SIGKILL)  # At once for the whole group: no fork slips through.
        proctree.signal_all(tree.values(), signal.SIGKILL)

    async def _sweep(self, attempt: Attempt) -> None:
        """Kill what the supervisor left behind, until nothing is: the tree, then strays that carry its mark."""
        pause_s = 0.001
        while attempt.released:
            processes = await asyncio.to_thread(proctree.walk)
            left = proctree.members(processes, attempt.session, attempt.known)
            left |= await asyncio.to_thread(proctree.strays, processes, attempt.mark)
            left |= self._orphans(processes)
            if not left:
                break
            attempt.known |= {(pid, process.started) for pid, process in left.items()}
            proctree.signal_all(left.values(), signal.SIGSTOP)  # Frozen first: what forks faster than we look cannot.
            if not proctree.signal_all(left.values(), signal.SIGKILL):
                break
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, 1.0)  # Unkillable for now (a dead disk): keep asking, gently.
        if self._adopts_orphans:
            proctree.reap_orphans(self._shells())

    def _orphans(self, processes: dict[int, proctree.Process]) -> dict[int, proctree.Process]:
        """What attempts left behind whose shells have ended. Those of the others are their shells' children."""
        return proctree.orphans(processes, self._shells()) if self._adopts_orphans else {}

    def _shells(self) -> set[int]:
        return {attempt.pid for attempt in self._attempts.values()}

    # --- ending ------------------------------------------------------------------------------------------------------

    def _conclude(self, attempt: Attempt) -> TaskEnded:
        """Read how it ended and store its outputs. Blocking: for a thread."""
        code = attempt.exit_code()
        if attempt.stop_reason:
            return self._ended(attempt, attempt.stop_reason, code, attempt.stop_detail)
        if code is None:
            return self._ended(attempt, "signal", None, "its supervisor was killed and left no exit code")
        if code == _FILE_SIZE_CODE:
            return self._ended(attempt, "disk_limit", code, "a file grew past the disk the task declared")
        if 128 < code <= 192:
            return self._ended(attempt, "signal", code, _signal_name(code - 128))
        if code:
            return self._ended(attempt, "exit", code)
        try:
            outputs = self._store.harvest(attempt.folder.outputs, attempt.launch.task_id, attempt.launch.outputs)
        except OutputRefusedError as error:
            return self._ended(attempt, "outputs", code, str(error))
        except StoreFullError as error:
            return self._ended(attempt, "disk_full", code, str(error))
        except (OfferflowError, OSError) as error:
            return self._ended(attempt, "outputs", code, f"its outputs cannot be stored: {error}")
        return self._ended(attempt, "exit", code, outputs=outputs)

    def _ended(
        self,
        attempt: Attempt,
        reason: str,
        code: int | None = None,
        detail: str = "",
        outputs: tuple[HeldShard, ...] = (),
    ) -> TaskEnded:
        return TaskEnded(
            task_id=attempt.launch.task_id, attempt=attempt.launch.attempt, reason=reason, exit_code=code,
            detail=detail[:1000], log_tail=logs.log_tail(attempt.folder.path), outputs=outputs,
            run_us=int(attempt.run_s() * 1e6),
        )  # fmt: skip

    def _tidy(self, folder: AttemptFolder) -> None:
        folder.clear()
        active = {attempt.folder.path.name for attempt in list(self._attempts.values())}
        with contextlib.suppress(OSError):
            logs.tidy(self._root, self._logs_kept_bytes, active)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
