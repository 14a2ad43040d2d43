"""One MQTT connection's client: how the library's object is made and broken off, and what its refusal means.

A client serves one connection and is not used again; `federation.mqtt` makes the next one.
"""

import contextlib
import logging
import socket
import ssl
from typing import Final, NamedTuple

import aiomqtt
from aiomqtt import ProtocolVersion
from aiomqtt.exceptions import MqttConnectError
from paho.mqtt.client import MQTT_CLEAN_START_FIRST_ONLY
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from federation.mqtt_access import LinkTls, advice
from federation.mqtt_parts import Address, Protocol, Will

# Time for TCP, TLS and the broker's answer to CONNECT and SUBSCRIBE. A GPRS modem needs several seconds to wake up.
ANSWER_S: Final = 10.0
_NOT_LET_IN: Final = (4, 5, 0x86, 0x87)  # Bad user or password, and not authorised, in 3.1.1 and in 5.
_quiet: Final = logging.getLogger("offerflow.mqtt")
_quiet.setLevel(logging.CRITICAL)


class Session(NamedTuple):
    """What every connection of a link asks for."""

    address: Address
    client_id: str
    session_s: int  # how long the broker keeps the session of an absent client
    keepalive_s: int
    receive_max: int
    packet_bytes_max: int
    tls: LinkTls | None


class NotThisProtocol(aiomqtt.MqttError):
    """The broker took the connection and would not speak this version."""


def make_client(session: Session, protocol: Protocol, will: Will | None) -> aiomqtt.Client:
    is_5 = protocol == "5"
    connect_properties = None
    will_properties = None
    if is_5:
        connect_properties = _properties(PacketTypes.CONNECT)
        connect_properties.SessionExpiryInterval = session.session_s
        connect_properties.ReceiveMaximum = session.receive_max
        connect_properties.MaximumPacketSize = session.packet_bytes_max
        if will is not None and will.delay_s:
            will_properties = _properties(PacketTypes.WILLMESSAGE)
            will_properties.WillDelayInterval = will.delay_s
    if session.tls is not None:
        session.tls.failure = None
    return aiomqtt.Client(
        session.address.host,
        session.address.port,
        username=session.address.username,
        password=session.address.password,
        identifier=session.client_id,
        protocol=ProtocolVersion.V5 if is_5 else ProtocolVersion.V311,
        clean_session=None if is_5 else False,
        clean_start=False if is_5 else MQTT_CLEAN_START_FIRST_ONLY,
        properties=connect_properties,
        will=will and aiomqtt.Will(will.topic, will.payload, 1, will.retain, will_properties),
        keepalive=session.keepalive_s,
        timeout=ANSWER_S,
        logger=_quiet,  # Whatever matters reaches the callbacks; the driver logs it.
        # The window is ours: paho does not know the broker's receive maximum, and walks its window at every PUBACK.
        max_inflight_messages=0,
        tls_context=session.tls,
        socket_options=((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),),
    )


async def enter(client: aiomqtt.Client, session: Session, protocol: Protocol) -> None:
    """Connect. Raises `MqttError`; `NotThisProtocol` where another version may fare better."""
    try:
        await client.__aenter__()
    except aiomqtt.MqttError as error:
        failure = session.tls.failure if session.tls is not None else None
        cause = failure or error.__context__
        if isinstance(cause, ssl.SSLError) or (session.tls is not None and isinstance(cause, ConnectionResetError)):
            raise aiomqtt.MqttError(advice(cause)) from None
        if protocol == "5" and _may_mean_wrong_protocol(client, error):
            raise NotThisProtocol(str(error)) from None
        if isinstance(error, MqttConnectError) and getattr(error.rc, "value", error.rc) in _NOT_LET_IN:
            raise aiomqtt.MqttError(f"{error}: check broker_user and broker_password_file") from None
        raise


def _may_mean_wrong_protocol(client: aiomqtt.Client, error: aiomqtt.MqttError) -> bool:
    """Whether a refusal of MQTT 5 may be about the version. A broker that knows only 3.1.1 says its own code 1, hangs
    up, sends what a version 5 client cannot read, or waits for more bytes in silence; one that knows 5 gives a reason,
    and 0x84 is the version."""
    if isinstance(error, MqttConnectError):
        return getattr(error.rc, "value", error.rc) in (1, 0x80, 0x81, 0x82, 0x84)
    return client._client.socket() is not None  # TCP stands, and no answer came in time.


def _properties(packet_type: int) -> Properties:
    made: Properties = Properties(packet_type)  # type: ignore[no-untyped-call]
    return made


def break_off(client: aiomqtt.Client) -> None:
    """Close the socket without a DISCONNECT, and let go of the client."""
    with contextlib.suppress(Exception):
        client._client._sock_close()
    if client._disconnected.done() and not client._disconnected.cancelled():
        client._disconnected.exception()  # Seen: asyncio need not log it.
