"""A scenario that was made from recordings, run as it was: their events to the core again, and the policy asked again.

The world in the file is what the recordings tell of; what they hold is the run itself. So under the policy of then the
run is not simulated but repeated, and each decision is held against the one that was made.
"""

import hashlib
from pathlib import Path

import msgspec

from federation import events
from federation.api import SubmitJob
from federation.errors import ConfigError
from federation.facts import Fact, JobAccepted
from federation.market.facts import FrameworkSet, FrameworkTaskChanged, FrameworkTaskLaunched
from federation.master import Master
from federation.recording import read
from policies import registry
from scenarios.player import Outcome, Submission
from scenarios.replay import Asking, drive
from scenarios.world import DIGEST_BYTES, START_US, Recording, World

NOTE = "replayed: the recorded events to the same core, the policy asked again; another policy or seed is simulated"
FRAMEWORKS = (FrameworkSet, FrameworkTaskLaunched, FrameworkTaskChanged)  # What they brought no file can say.


class Numbering:
    """Which submission is which arrival: asked twice (a master was away) it is one."""

    def __init__(self) -> None:
        self.n = 0
        self._by_id: dict[str, int] = {}

    def hear(self, event: events.Event) -> bool:
        """Whether it is a submission that was not heard of."""
        if not isinstance(event, events.Asked) or not isinstance(event.request, SubmitJob):
            return False
        submission_id = event.request.submission_id
        if submission_id and submission_id in self._by_id:
            return False
        if submission_id:
            self._by_id[submission_id] = self.n
        self.n += 1
        return True

    def of(self, accepted: JobAccepted) -> int:
        return self._by_id.get(accepted.submission_id, self.n - 1)


def digest_of(path: Path) -> str:
    """Raises `ConfigError` where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=DIGEST_BYTES)).hexdigest()
    except OSError as error:
        raise ConfigError(f"the recording {path} cannot be read: {error.strerror}") from None


def recorded_policy(recordings: tuple[Recording, ...]) -> str:
    """Raises `ConfigError` where one is missing, or is not the one that the scenario was made from."""
    for each in recordings:
        if digest_of(Path(each.path)) != each.digest:
            raise ConfigError(f"{each.path} is not the recording that the scenario was made from: make it again")
    return read(Path(recordings[0].path))[0].policy


def rerun(world: World, recordings: tuple[Recording, ...], policy_name: str) -> Outcome:
    """What came of it, times from the first event. The recordings follow one another, the first begins without jobs."""
    asking = Asking(registry.load(policy_name))
    numbering = Numbering()
    asked_us: list[int] = []
    times: list[int] = []

    def hear(event: events.Event, at_us: int) -> None:
        times.append(at_us)
        if numbering.hear(event):
            asked_us.append(at_us - times[0])

    facts: list[Fact] = []
    broken: list[str] = []
    submissions: dict[int, Submission] = {}
    master = Master(read(Path(recordings[0].path))[0].config, policy_name)
    for each in recordings:
        driven = drive(Path(each.path), tuple(facts), asking.solve, asking.planned, hear)
        broken += driven.broken
        master = driven.master
        for fact in driven.facts:
            if isinstance(fact, JobAccepted):
                number = numbering.of(fact)
                submissions[number] = Submission(arrival=number, job_id=fact.job_id, asked_us=asked_us[number])
        facts += driven.facts
    begun_us = times[0] if times else 0
    shifted = tuple(
        msgspec.structs.replace(fact, at_us=fact.at_us - begun_us + START_US)
        for fact in facts
        if not isinstance(fact, FRAMEWORKS)
    )
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for fact in shifted:
        digest.update(msgspec.msgpack.encode(fact))
    return Outcome(
        world=msgspec.structs.replace(world, notes=(*world.notes, NOTE)),
        policy=policy_name,
        master=master,
        facts=shifted,
        digest=digest.hexdigest(),
        ended_us=times[-1] - begun_us if times else 0,
        n_events=len(times),
        n_rounds=asking.n_rounds,
        bytes_between_sites=sum(task.fetched_bytes for task in master.core.tasks.tasks.values()),
        refused=(),
        broken_laws=tuple(broken),
        submissions=tuple(submissions[number] for number in sorted(submissions)),
        n_decided_otherwise=asking.n_rounds - asking.n_equal,
        parting=asking.parting,
    )
