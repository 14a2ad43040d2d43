"""Whatever the bytes: a message of ours, or one counted error that says what is wrong. Nothing else ever rises."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import PeerError
from federation.wire import (
    PAYLOAD_BYTES_MAX,
    AgentMessage,
    Birth,
    CommandAck,
    CommandBatch,
    Death,
    Launch,
    MasterMessage,
    MasterState,
    NetReport,
    Offer,
    OfferDelta,
    Ping,
    Quarantine,
    RebirthRequest,
    StatusAck,
    StatusReport,
    TaskStatus,
    Welcome,
    decode_agent_message,
    decode_master_message,
    encode,
)
from policies.model import Gpu, Needs, Resources

LIFE = {"agent_id": "gw-1", "boot": 1, "conn": 2}
ROOM = Resources(cpu_milli=8000, memory_bytes=2**34, disk_bytes=2**36, gpus=(Gpu(uuid="g", model=None),))
STATUS = TaskStatus(status_id=1, task_id="j/t/0", attempt=1, term=1, state="finished", exit_code=0, log_tail="é")
LAUNCH = Launch(cmd_id=1, task_id="j/t/0", attempt=1, expires_in_us=1_000, command=("true",), needs=Needs())
OF_AGENTS: list[AgentMessage] = [
    Birth(**LIFE, version="1", site="plant", tier="edge", total=ROOM),
    Offer(**LIFE, seq=3, offer_id="o", free=ROOM, expires_in_us=15_000_000),
    OfferDelta(**LIFE, seq=4, base_seq=3, cpu_milli=500, gpus=()),
    StatusReport(**LIFE, seq=4, statuses=(STATUS,)),
    CommandAck(**LIFE, seq=5, cmd_ids=(1, 2)),
    NetReport(**LIFE, seq=6, samples=()),
    Ping(**LIFE, seq=7, nonce=1),
    Death(**LIFE, reason="shutdown"),
]
OF_MASTERS: list[MasterMessage] = [
    CommandBatch(term=1, boot=1, conn=2, commands=(LAUNCH,)),
    Welcome(term=1, boot=1, conn=2, offer_every_us=5_000_000, ping_every_us=5_000_000, offer_lease_us=15_000_000),
    StatusAck(term=1, status_ids=(1,)),
    RebirthRequest(term=1),
    Quarantine(term=1, reason="twin"),
    MasterState(term=1, online=True),
]


@pytest.mark.parametrize("message", OF_AGENTS, ids=lambda message: type(message).__name__)
def test_what_an_agent_says_arrives(message: AgentMessage) -> None:
    assert decode_agent_message(encode(message)) == message


@pytest.mark.parametrize("message", OF_MASTERS, ids=lambda message: type(message).__name__)
def test_what_a_master_says_arrives(message: MasterMessage) -> None:
    assert decode_master_message(encode(message)) == message


CODES = ("malformed", "oversized", "unknown_message", "unknown_version")


def harmless(payload: bytes) -> None:
    for decode in (decode_agent_message, decode_master_message):
        refused: PeerError | None = None
        try:
            decode(payload)
        except PeerError as error:
            refused = error
        assert refused is None or (refused.code in CODES and refused.detail)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_one_error(payload: bytes) -> None:
    harmless(payload)


@given(
    message=st.sampled_from([*OF_AGENTS, *OF_MASTERS]),
    edits=st.lists(st.tuples(st.integers(0, 500), st.integers(0, 255)), min_size=1, max_size=8),
    keep=st.integers(0, 500),
)
def test_a_damaged_message_is_a_message_or_one_error(message: Any, edits: list[tuple[int, int]], keep: int) -> None:
    """Bytes altered on the way, and the end cut off."""
    payload = bytearray(encode(message))
    for at, value in edits:
        payload[at % len(payload)] = value
    harmless(bytes(payload))
    harmless(encode(message)[:keep])


scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats()
json_like = st.recursive(
    scalars | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(message=st.sampled_from([*OF_AGENTS, *OF_MASTERS]), value=json_like, data=st.data())
def test_a_field_of_another_type_is_one_error(message: Any, value: Any, data: st.DataObject) -> None:
    tree = msgspec.msgpack.decode(encode(message))
    tree[data.draw(st.sampled_from(sorted(tree)))] = value
    harmless(msgspec.msgpack.encode(tree))


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("expires_in_us", float("nan"), "Expected `int`, got `float` - at `$.expires_in_us`"),
        ("expires_in_us", -1, "`int` >= 1 - at `$.expires_in_us`"),
        ("expires_in_us", "15", "Expected `int`, got `str`"),
        ("expires_in_us", True, "Expected `int`, got `bool`"),
        ("free", {"cpu_milli": float("nan")}, "Expected `int`, got `float` - at `$.free.cpu_milli`"),
        ("free", {"cpu_milli": 1e308}, "at `$.free.cpu_milli`"),
        ("free", [1, 2, 3], "at `$.free`"),
        ("agent_id", "../../etc", "at `$.agent_id`"),
        ("offer_id", "x" * 100_000, "at `$.offer_id`"),
    ],
)
def test_an_impossible_value_is_named_with_its_place(field: str, value: Any, said: str) -> None:
    tree = msgspec.msgpack.decode(encode(OF_AGENTS[1]))
    with pytest.raises(PeerError) as refused:
        decode_agent_message(msgspec.msgpack.encode(tree | {field: value}))
    assert refused.value.code == "malformed" and said in refused.value.detail, refused.value.detail


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"", "malformed"),
        (b"\xc1", "malformed"),
        (b"\x91" * 200_000, "malformed"),
        (b"\x81\xa1t" * 50_000, "malformed"),
        (b"\xdf\xff\xff\xff\xff", "malformed"),  # A map of four thousand million entries that are not there.
        (b"\xc6\xff\xff\xff\xff", "malformed"),
        (b"\x00" * (PAYLOAD_BYTES_MAX + 1), "oversized"),
        (encode(OF_AGENTS[0]).replace(b"birth/1", b"birth/2"), "unknown_version"),
        (encode(OF_AGENTS[0]).replace(b"birth/1", b"berth/1"), "unknown_message"),
        (encode(OF_MASTERS[0]), "unknown_message"),  # Of the other side.
    ],
)
def test_rubbish_has_a_name(payload: bytes, code: str) -> None:
    with pytest.raises(PeerError) as refused:
        decode_agent_message(payload)
    assert refused.value.code == code and refused.value.detail
