"""A bug of the master's costs one event: it is set aside, durably, and the master goes on from its journal."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation import views
from federation.api import JobView, Problem, SubmitJob
from federation.broker import find_mosquitto
from federation.commands import Reply, Send
from federation.config import LiveConfig, MasterConfig
from federation.driver import LiveMaster
from federation.errors import StorageError
from federation.events import AgentSpoke, Asked, PlanFailed, PlanReady
from federation.facts import Fact, JobAccepted, TaskStateChanged
from federation.http.app import serve
from federation.http.settings import HttpConfig
from federation.master import Master
from federation.recording import read
from federation.recovery import FAULTS_MAX as FAULTS_OF_ALL_MAX
from federation.set_aside import FAULTS_MAX, KEPT_MAX, SetAsideBook, fact_of
from federation.wire import Offer, Ping, StatusAck, StatusReport, TaskStatus
from policies.model import Plan, Resources
from tests.live_world import WireAgent, broker_of, job, live_config, running, until

BOOM = "boom"


class Faulty(Master):
    """A master with a bug: its books raise when they have taken in a job or a status that says "boom"."""

    def __init__(self, config: MasterConfig, policy_name: str = "flow") -> None:
        super().__init__(config, policy_name)
        for kind in (JobAccepted, TaskStateChanged):
            self.core._apply[kind] = _explosive(self.core._apply[kind])


def _explosive(take: Callable[[Any], None]) -> Callable[[Any], None]:
    def taking(fact: JobAccepted | TaskStateChanged) -> None:
        take(fact)
        if BOOM in (fact.job.name if isinstance(fact, JobAccepted) else fact.detail):
            raise KeyError(BOOM)

    return taking


def report(*details: str, seq: int = 5, agent_id: str = "gw-1") -> AgentSpoke:
    statuses = tuple(
        TaskStatus(status_id=n, task_id="j/t/0", attempt=1, term=1, state="running", detail=detail)
        for n, detail in enumerate(details, 1)
    )
    return AgentSpoke(message=StatusReport(agent_id=agent_id, boot=1, conn=seq // 4, seq=seq, statuses=statuses))


# --- known again -----------------------------------------------------------------------------------------------------


@given(
    st.lists(st.sampled_from("abc"), max_size=4), st.lists(st.sampled_from("abcdef"), max_size=6), st.integers(0, 99)
)
def test_of_a_report_only_what_was_in_a_fault_is_passed_over_and_it_is_acknowledged(
    before: list[str], now: list[str], seq: int
) -> None:
    book = SetAsideBook()
    first, again = report(*before), report(*now, seq=seq)
    assert book.rest_of(first, 7) == (first, [])
    book.add(fact_of(first, KeyError(BOOM), 1))
    rest, told = book.rest_of(again, 7)
    assert isinstance(rest, AgentSpoke) and isinstance(rest.message, StatusReport)
    assert isinstance(first.message, StatusReport) and isinstance(again.message, StatusReport)
    faulty = set(first.message.statuses)
    assert rest.message.statuses == tuple(status for status in again.message.statuses if status not in faulty)
    assert (rest.message.seq, rest.message.agent_id) == (seq, "gw-1"), "it counts as a sign of life"
    ids = tuple(status.status_id for status in again.message.statuses if status in faulty)
    assert told == ([Send(agent_id="gw-1", message=StatusAck(term=7, status_ids=ids))] if ids else [])


def test_what_differs_from_sending_to_sending_does_not_count() -> None:
    room = Resources(cpu_milli=1000)
    book = SetAsideBook()
    offer = Offer(agent_id="gw-1", boot=1, conn=1, seq=4, offer_id="o1", free=room, expires_in_us=10)
    book.add(fact_of(AgentSpoke(message=offer), ValueError(BOOM), 1))
    renewed = msgspec.structs.replace(offer, conn=2, seq=9, offer_id="o2", commands_seen=3)
    assert book.rest_of(AgentSpoke(message=renewed), 1) == (None, [])
    for other in (
        msgspec.structs.replace(offer, agent_id="gw-2"),
        msgspec.structs.replace(offer, free=Resources(cpu_milli=2000)),
    ):
        assert book.rest_of(AgentSpoke(message=other), 1) == (AgentSpoke(message=other), [])


def test_a_request_is_refused_and_a_plan_counts_as_none() -> None:
    book = SetAsideBook()
    asked = Asked(request_id="1-1", request=SubmitJob(job=job("a")))
    ready = PlanReady(round_id=3, plan=Plan(placements=(), refusals=()))
    for event in (asked, ready):
        book.add(fact_of(event, ValueError(BOOM), 1))
    rest, told = book.rest_of(Asked(request_id="1-2", request=SubmitJob(job=job("a"))), 1)
    assert rest is None
    ((request_id, answer),) = [(reply.request_id, reply.answer) for reply in told if isinstance(reply, Reply)]
    assert request_id == "1-2" and isinstance(answer, Problem) and (answer.status, answer.code) == (500, "internal")
    assert isinstance(book.rest_of(msgspec.structs.replace(ready, round_id=4), 1)[0], PlanFailed)


def test_an_agent_that_does_it_again_and_again_is_not_listened_to() -> None:
    book = SetAsideBook()
    ping = AgentSpoke(message=Ping(agent_id="gw-1", boot=1, conn=1, nonce=1))
    for n in range(FAULTS_MAX):
        assert book.rest_of(ping, 1) == (ping, [])
        book.add(fact_of(report(f"{BOOM} {n}"), KeyError(BOOM), n))
    assert book.rest_of(ping, 1) == (None, [])
    other = AgentSpoke(message=Ping(agent_id="gw-2", boot=1, conn=1, nonce=1))
    assert book.rest_of(other, 1) == (other, [])


def test_another_version_tries_again_and_the_book_is_bounded() -> None:
    book = SetAsideBook()
    fact = fact_of(report(BOOM), KeyError(BOOM), 1)
    book.add(msgspec.structs.replace(fact, version="0.0.1"))
    assert book.rest_of(report(BOOM), 1) == (report(BOOM), [])
    for n in range(2 * KEPT_MAX):
        book.add(msgspec.structs.replace(fact, at_us=n))
    assert [entry.at_us for entry in book.entries] == list(range(KEPT_MAX, 2 * KEPT_MAX))


def test_the_error_says_where() -> None:
    try:
        report().message.conn.no_such_thing  # type: ignore[attr-defined]  # noqa: B018
    except AttributeError as error:
        fact = fact_of(report(BOOM), error, 1)
    assert fact.event_type == "AgentSpoke StatusReport" and fact.source == "gw-1"
    assert (
        fact.error.startswith("AttributeError: ") and "in test_the_error_says_where of test_set_aside.py" in fact.error
    )


# --- live: a real broker, a real journal, and a core that raises in the middle of a change ---------------------------

live = [
    pytest.mark.live,
    pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed (apt-get install mosquitto)"),
]


def live_marks(test: Any) -> Any:
    for mark in live:
        test = mark(test)
    return test


async def replayed(master: LiveMaster) -> Master:
    found = Faulty(master.config.master, master.config.policy)
    for _, fact in await master.journal.read(0, 10_000):
        found.apply(fact)
    return found


def open_faulty(folder: Path, url: str) -> LiveMaster:
    config: LiveConfig = live_config(folder, url)
    return LiveMaster.open(config, Faulty)


@live_marks
async def test_a_poisonous_status_costs_one_fault_and_nothing_else(tmp_path: Path) -> None:
    async with broker_of(tmp_path / "b", "mosquitto") as broker:
        master = open_faulty(tmp_path, broker.url)
        agent = WireAgent(broker.url, "gw-1", obeys=False)
        async with running(master), agent.running():
            view = await master.ask(SubmitJob(job=job("work", 2)))
            assert isinstance(view, JobView)
            await until(lambda: len(agent.launches) == 2)
            first, second = agent.launches
            agent.report(first, 1, "failed", detail=BOOM)
            await until(lambda: master.counters()["faults"] == 1)
            await until(lambda: master.master.term == 2)
            assert (await replayed(master)).durable() == master.master.durable(), "nothing half done has stayed"
            shown = views.status(master.master, master.now_us())
            assert shown.n_set_aside == 1 and shown.set_aside.startswith("AgentSpoke StatusReport of gw-1: KeyError")
            # The outbox says it again, with more, on a connection of its own; the broker has long forgotten it.
            await until(lambda: agent.heard_term() == 2)
            agent.say(
                StatusReport,
                "status",
                statuses=(
                    TaskStatus(status_id=1, task_id=first.task_id, attempt=1, term=1, state="failed", detail=BOOM),
                    TaskStatus(status_id=2, task_id=second.task_id, attempt=1, term=1, state="finished", exit_code=0),
                ),
            )
            await until(lambda: agent.acked_statuses >= {1, 2})
            assert master.counters()["faults"] == 1
            assert master.master.term == 2
        # What a report of the bug needs: the event, and the state that it met.
        (copy,) = (tmp_path / "set-aside").iterdir()
        header, events = read(copy)
        ((recorded),) = events
        assert header.state is not None and isinstance(recorded.event, AgentSpoke)
        assert copy.stat().st_mode & 0o077 == 0


@live_marks
async def test_after_a_restart_the_message_is_known_and_acknowledged(tmp_path: Path) -> None:
    async with broker_of(tmp_path / "b", "mosquitto") as broker:
        fact: Fact = fact_of(AgentSpoke(message=poison(seq=3)), KeyError(BOOM), 1)
        first = open_faulty(tmp_path, broker.url)
        await first.journal.commit([fact])  # The process was killed before it could acknowledge the message.
        await first.journal.close()
        again = open_faulty(tmp_path, broker.url)
        agent = WireAgent(broker.url, "gw-1", obeys=False)
        async with running(again), agent.running():
            await until(lambda: agent.heard_term() == 1)
            agent.say(StatusReport, "status", statuses=poison(seq=9).statuses)
            await until(lambda: agent.acked_statuses == {1})
            assert again.counters()["faults"] == 0


def poison(seq: int) -> StatusReport:
    status = TaskStatus(status_id=1, task_id="work/t/0", attempt=1, term=1, state="failed", detail=BOOM)
    return StatusReport(agent_id="gw-1", boot=1, conn=1, seq=seq, statuses=(status,))


@live_marks
async def test_a_poisonous_request_gets_a_problem_document_and_others_are_served(tmp_path: Path) -> None:
    async with broker_of(tmp_path / "b", "mosquitto") as broker:
        master = open_faulty(tmp_path, broker.url)
        async with running(master), serve(master, HttpConfig(port=0)) as at, aiohttp.ClientSession(at.url) as client:
            for _ in range(2):
                body = msgspec.json.encode(SubmitJob(job=job(BOOM)))
                async with client.post("/api/v1/jobs", data=body, headers={"Content-Type": "application/json"}) as got:
                    assert (got.status, got.content_type) == (500, "application/problem+json")
                    assert (await got.json())["type"] == "/problems/internal"
            assert master.counters()["faults"] == 1, "the second time it was known"
            assert isinstance(await master.ask(SubmitJob(job=job("fine"))), JobView)
            async with client.get("/api/v1/status") as got:
                assert (await got.json())["n_set_aside"] == 1
            async with client.get("/metrics") as got:
                assert "offerflow_events_set_aside 1.0" in await got.text()


@live_marks
async def test_requests_beside_a_poisonous_one_are_answered(tmp_path: Path) -> None:
    """Each is taken or told to ask again; none waits for ever, and what was taken is there."""
    async with broker_of(tmp_path / "b", "mosquitto") as broker:
        master = open_faulty(tmp_path, broker.url)
        async with running(master):
            names = ["a", "b", BOOM, "c", "d"]
            answers = await asyncio.gather(*(master.ask(SubmitJob(job=job(name))) for name in names))
            for name, answer in zip(names, answers, strict=True):
                if isinstance(answer, Problem):
                    assert answer.code == ("internal" if name == BOOM else "recovering")
                    assert name not in master.master.core.tasks.jobs
                else:
                    assert isinstance(answer, JobView) and answer.job_id in master.master.core.tasks.jobs
            assert isinstance(answers[2], Problem)
            await until(lambda: not master.master.core.recovering)
            assert isinstance(await master.ask(SubmitJob(job=job("a2"))), JobView)


@live_marks
async def test_faults_without_end_end_the_process(tmp_path: Path) -> None:
    async with broker_of(tmp_path / "b", "mosquitto") as broker:
        master = open_faulty(tmp_path, broker.url)
        task = asyncio.create_task(master.run())
        for n in range(FAULTS_OF_ALL_MAX - 1):
            answer = await master.ask(SubmitJob(job=job(f"{BOOM}-{n}")))
            assert isinstance(answer, Problem) and answer.status == 500
        with pytest.raises(StorageError):
            await master.ask(SubmitJob(job=job(f"{BOOM}-last")))
        with pytest.raises(KeyError, match=BOOM):
            await asyncio.wait_for(task, 20)
        again = open_faulty(tmp_path, broker.url)  # The journal is whole.
        assert len(again.master.core.set_aside.entries) == FAULTS_OF_ALL_MAX - 1
        await again.journal.close()
