"""PUBLISH and PUBACK as bytes: what we write the library reads, what the library reads we read the same, whatever the
pieces in which it arrives."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt import _packet as library
from paho.mqtt.client import MQTTv5, MQTTv311

from federation.mqtt_packets import (
    PUBACK,
    PUBLISH,
    MalformedError,
    Message,
    Packets,
    decode_puback,
    decode_publish,
    encode_puback,
    encode_publish,
    refusal,
)

topics = st.text(st.characters(codec="utf-8", exclude_characters="\0#+"), min_size=1, max_size=40)
payloads = st.binary(max_size=400)
mids = st.integers(1, 65_535)


def packets_of(*pieces: bytes) -> list[tuple[int, bytes]]:
    packets, found = Packets(), []
    for piece in pieces:
        packets.feed(piece)
        while (packet := packets.take()) is not None:
            found.append(packet)
    return found


@given(topics, payloads, st.integers(0, 1), st.booleans(), mids, st.none() | st.integers(1, 2**32 - 1), st.booleans())
def test_what_is_written_is_read_by_the_library_and_by_us(
    topic: str, payload: bytes, qos: int, retain: bool, mid: int, expires_s: int | None, is_5: bool
) -> None:
    sent = encode_publish(topic, payload, qos=qos, retain=retain, mid=mid, expires_s=expires_s, is_5=is_5)
    ((first, body),) = packets_of(sent)
    assert first & 0xF0 == PUBLISH
    expected = Message(topic, payload, qos, retain, mid if qos else 0)
    assert decode_publish(first, body, is_5=is_5) == expected
    theirs = library.decode_publish(first, bytearray(body), MQTTv5 if is_5 else MQTTv311)
    assert (theirs.topic.decode(), bytes(theirs.payload), theirs.qos, theirs.retain) == expected[:4]
    if qos:
        assert theirs.mid == mid
    if is_5:
        assert getattr(theirs.properties, "MessageExpiryInterval", None) == expires_s


@given(st.lists(st.tuples(topics, st.binary(max_size=200)), max_size=8), st.data())
def test_packets_come_out_whole_however_the_stream_is_cut(
    messages: list[tuple[str, bytes]], data: st.DataObject
) -> None:
    packets = [
        encode_publish(topic, payload, qos=1, retain=False, mid=1, expires_s=None, is_5=True)
        for topic, payload in messages
    ]
    stream = b"".join(packets)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    found = [decode_publish(first, body, is_5=True) for first, body in packets_of(*pieces)]
    assert [(message.topic, message.payload) for message in found] == messages


@given(st.binary(max_size=60), st.integers(0, 15), st.booleans())
def test_any_bytes_are_a_message_or_malformed(body: bytes, flags: int, is_5: bool) -> None:
    try:
        message = decode_publish(PUBLISH | flags, body, is_5=is_5)
    except MalformedError:
        return
    assert body.endswith(message.payload) and message.qos in (0, 1) and (message.mid > 0) == (message.qos == 1)


@given(st.binary(max_size=200))
def test_any_stream_is_cut_or_malformed(stream: bytes) -> None:
    try:
        found = packets_of(stream)
    except MalformedError:
        return
    assert sum(2 + len(body) for _, body in found) <= len(stream)


@given(mids, st.none() | st.integers(0, 255))
def test_acknowledgements(mid: int, code: int | None) -> None:
    ((first, body),) = packets_of(encode_puback(mid))
    assert (first, decode_puback(body)) == (PUBACK, (mid, 0))
    theirs = library.decode_puback(first, bytearray(body), MQTTv5)
    assert theirs.mid == mid
    told = body + (b"" if code is None else bytes((code, 0)))
    assert decode_puback(told) == (mid, code or 0)


def test_a_large_packet_has_a_long_length() -> None:
    payload = b"x" * 2_200_000
    packet = encode_publish("t", payload, qos=0, retain=False, mid=0, expires_s=None, is_5=False)
    assert packet[1:5] == bytes((0xC3, 0xA3, 0x86, 0x01))  # 2,200,003, seven bits a byte, lowest first
    ((first, body),) = packets_of(packet[:100_000], packet[100_000:])
    assert decode_publish(first, body, is_5=False).payload == payload


@pytest.mark.parametrize("stream", [b"\x30\xff\xff\xff\xff\x01", b"\x40\x80\x80\x80\x80"])
def test_a_length_of_five_bytes_is_malformed(stream: bytes) -> None:
    with pytest.raises(MalformedError, match="four bytes"):
        packets_of(stream)


def test_a_puback_without_an_id_is_malformed() -> None:
    with pytest.raises(MalformedError):
        decode_puback(b"\0")


def test_a_topic_that_is_no_text_is_told_as_none() -> None:
    assert decode_publish(PUBLISH, b"\0\x01\xffx", is_5=False) == Message("", b"x", 0, False, 0)


def test_refusals_are_told_in_words() -> None:
    assert refusal(0x87) == "Not authorized"
    assert refusal(0xFE) == "Unspecified error (0xfe)"
