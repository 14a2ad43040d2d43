"""Strict reading of requests: every key known and given once, every number exact, every error with its place."""

import contextlib
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.api import PlanJob, SetRole, SubmitJob
from federation.errors import PeerError
from federation.http.bodies import TaskQuery, UploadQuery
from federation.http.strict import INTEGER_MAX, decode_json, decode_query
from federation.jobs import Job, TaskGroup
from federation.states import TaskState
from policies.model import Amount, GpuNeed, Needs

GROUP: dict[str, object] = {"name": "train", "command": ["true"]}


def submit(**group: object) -> bytes:
    return json.dumps({"job": {"name": "digits", "tasks": [GROUP | group]}}).encode()


def refusal(body: bytes, type_: type = SubmitJob) -> tuple[str, str]:
    with pytest.raises(PeerError) as caught:
        decode_json(body, type_)
    return caught.value.code, caught.value.detail


def test_a_good_job_is_what_msgspec_reads() -> None:
    body = submit(needs={"cpu_milli": 500, "gpu": {"count": 2}}, env={"ANY": "thing"}, where={"labels": [["a", "b"]]})
    assert decode_json(body, SubmitJob) == msgspec.json.decode(body, type=SubmitJob)


def test_encoded_requests_read_back_with_and_without_their_tag() -> None:
    job = Job(name="a", tasks=(TaskGroup(name="b", command=("c",), needs=Needs(gpu=GpuNeed(count=1))),))
    for request in (SubmitJob(job=job, submission_id="x"), PlanJob(job=job), SetRole(path="a/b", quota=Amount(gpus=1))):
        body = msgspec.json.encode(request)
        assert decode_json(body, type(request)) == request


BAD = [
    (submit(comand=["x"]), "unknown_key", "unknown key 'comand' - at `$.job.tasks[0]`; did you mean 'command'?"),
    (submit(needs={"gpu": {"cont": 1}}), "unknown_key", "at `$.job.tasks[0].needs.gpu`; did you mean 'count'?"),
    (submit(needs={"zzz": 1}), "unknown_key", "known are cpu_milli, memory_bytes"),
    (b'{"job": {}, "priority": 3}', "unknown_key", "known are job, submission_id"),
    (b'{"job": {"name": "a", "name": "b"}}', "unknown_key", "'name' appears twice"),
    (submit(count="many"), "invalid", "Expected `int`, got `str` - at `$.job.tasks[0].count`"),
    (submit(count=0), "invalid", ">= 1"),
    (submit(run_us=10**30), "invalid", "within ±2^53 - at `$.job.tasks[0].run_us`"),
    (submit(needs={"cpu_milli": -(2**60)}), "invalid", "within ±2^53"),
    (submit(env={"A": "\ud800"}), "invalid", "surrogate"),
    (b'{"job": {"name": "a", "tasks": []}}', "invalid", "length >= 1"),
    (b'{"ask": "plan_job", "job": {"name": "a"}}', "invalid", "$.ask"),
    (b"", "malformed", "not a JSON document"),
    (b"\xff\xfe", "malformed", "not a JSON document"),
    (json.dumps({"job": {"name": "a", "tasks": [GROUP]}}).encode("utf-16"), "malformed", "not a JSON document"),
    (b'{"job": NaN}', "malformed", "NaN is not a number"),
    (b'{"job": 1e999}', "invalid", ""),
    (b"[" * 100_000, "malformed", "nested too deeply"),
    (b'{"job": ' + b"[" * 900 + b"]" * 900 + b"}", "invalid", ""),
    (b"1" * 5000, "malformed", "4300 digits"),
    (b"null", "invalid", "Expected `object`, got `null`"),
]


@pytest.mark.parametrize(("body", "code", "says"), BAD, ids=range(len(BAD)))
def test_bad_documents_are_refused_with_their_place(body: bytes, code: str, says: str) -> None:
    found_code, detail = refusal(body)
    assert found_code == code
    assert says in detail


def test_the_largest_exact_integer_passes() -> None:
    assert decode_json(submit(run_us=INTEGER_MAX), SubmitJob).job.tasks[0].run_us == INTEGER_MAX


@given(st.binary(max_size=200))
def test_any_bytes_give_an_answer_or_a_peer_error(body: bytes) -> None:
    with pytest.raises(PeerError):
        decode_json(body, SubmitJob)  # No 200 random bytes are a job.


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["job", "name", "tasks", "x"]), inner),
    max_leaves=10,
)


@given(json_values)
def test_any_json_gives_an_answer_or_a_peer_error(value: object) -> None:
    body = json.dumps({"job": {"name": "a", "tasks": [GROUP, value]}}).encode()
    with contextlib.suppress(PeerError):
        assert decode_json(body, SubmitJob) == msgspec.json.decode(body, type=SubmitJob)


def test_queries_are_typed_and_strict() -> None:
    query = decode_query([("job", "digits"), ("limit", "7"), ("state", "running")], TaskQuery)
    assert query == TaskQuery(job="digits", limit=7, state=TaskState.RUNNING)
    assert decode_query([("site", "a"), ("site", "b")], UploadQuery).site == ("a", "b")
    for pairs, says in (
        ([("limit", "1001")], "<= 1000"),
        ([("limit", "x")], "Expected `int`"),
        ([("state", "rnning")], "Invalid enum value 'rnning'"),
        ([("limt", "1")], "did you mean 'limit'?"),
        ([("limit", "1"), ("limit", "2")], "given twice"),
    ):
        with pytest.raises(PeerError) as caught:
            decode_query(pairs, TaskQuery)
        assert says in caught.value.detail
