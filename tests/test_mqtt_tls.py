"""Links over TLS against a real Mosquitto: who is let in, and what whoever is not is told to do."""

import os
import signal
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from federation.broker import find_mosquitto, free_port
from federation.cli.client import Client
from federation.cli.main import run
from federation.config import LiveConfig
from federation.errors import ConfigError
from federation.mqtt_access import advice, make_tls, open_access, refuse_password
from federation.mqtt_parts import shown_url
from tests.mqtt_world import Peer, mosquitto_with
from tests.test_kill9 import job as ledger_job
from tests.test_up import started, wait_finished
from tests.tls_world import OPENSSL, Authority

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed (apt-get install mosquitto)"),
    pytest.mark.skipif(OPENSSL is None, reason="openssl is not installed (apt-get install openssl)"),
]
SECRET = "correct-horse-battery"


class World(NamedTuple):
    ours: Authority
    stranger: Authority
    broker: tuple[Path, Path]
    broker_elsewhere: tuple[Path, Path]
    client: tuple[Path, Path]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("certificates")
    ours, stranger = Authority(folder / "ours", "our authority"), Authority(folder / "stranger", "a stranger")
    return World(
        ours,
        stranger,
        ours.issue("broker", "IP:127.0.0.1,DNS:localhost"),
        ours.issue("elsewhere", "DNS:broker.example"),
        ours.issue("cam-7"),
    )


@asynccontextmanager
async def tls_broker(folder: Path, certificate: tuple[Path, Path], extra: str = "") -> AsyncIterator[str]:
    lines = f"certfile {certificate[0]}\nkeyfile {certificate[1]}\n{extra}"
    async with mosquitto_with(folder, lines) as url:
        yield url.replace("mqtt://", "mqtts://")


async def refusal(url: str, **tls: str) -> str:
    """Why no link comes up."""
    peer = Peer(url, "cam-7", tls=make_tls(**tls))
    async with peer.running(up=False):
        await peer.until(lambda: peer.downs or peer.ups)
        assert not peer.ups
    host = url.partition("://")[2]
    before = f"no connection to {host}: "
    assert peer.downs[0].startswith(before), peer.downs
    return peer.downs[0].removeprefix(before)


async def test_messages_flow_over_tls(tmp_path: Path, world: World) -> None:
    """More than a TLS record holds, so that decrypted bytes wait where no socket tells of them."""
    async with tls_broker(tmp_path, world.broker, "max_queued_messages 0") as url:
        hearer = Peer(url, "hearer", subscriptions=["t"], tls=make_tls(str(world.ours.ca)))
        speaker = Peer(url, "speaker", tls=make_tls(str(world.ours.ca)))
        async with hearer.running(), speaker.running():
            assert hearer.ups == ["5"]
            payloads = [b"%06d" % i * 500 for i in range(300)]
            for payload in payloads:
                assert speaker.link.publish("t", payload)
            await hearer.until(lambda: len(hearer.messages) == len(payloads))
            assert hearer.payloads == payloads and not hearer.downs
            assert isinstance(hearer.link.tcp_info_socket(), ssl.SSLSocket)


async def test_a_broker_of_an_unknown_authority_is_refused(tmp_path: Path, world: World) -> None:
    async with tls_broker(tmp_path, world.broker) as url:
        said = await refusal(url, ca_file=str(world.stranger.ca))
    assert said.startswith("the broker's certificate is not trusted (")
    assert said.endswith("): set tls_ca_file to the authority that signed it")


async def test_without_a_file_the_systems_authorities_decide(tmp_path: Path, world: World) -> None:
    async with tls_broker(tmp_path, world.broker) as url:
        assert "set tls_ca_file" in await refusal(url)


async def test_a_certificate_for_another_host_is_refused(tmp_path: Path, world: World) -> None:
    async with tls_broker(tmp_path, world.broker_elsewhere) as url:
        said = await refusal(url, ca_file=str(world.ours.ca))
    assert said.startswith("the broker's certificate is for another host (") and "127.0.0.1" in said
    assert said.endswith("): write the host that it names in the URL")


async def test_a_broker_that_wants_a_certificate_says_so_and_takes_it(tmp_path: Path, world: World) -> None:
    wants = f"cafile {world.ours.ca}\nrequire_certificate true\nuse_identity_as_username true"
    ca_file, (certificate, key) = str(world.ours.ca), world.client
    async with tls_broker(tmp_path, world.broker, wants) as url:
        assert await refusal(url, ca_file=ca_file) == (
            "the broker wants a client certificate: set tls_cert_file and tls_key_file"
        )
        stranger, strangers_key = world.stranger.issue("cam-8")
        said = await refusal(url, ca_file=ca_file, cert_file=str(stranger), key_file=str(strangers_key))
        assert said.startswith("the broker does not trust our certificate: set tls_cert_file")
        both = tmp_path / "both.pem"
        both.write_bytes(certificate.read_bytes() + key.read_bytes())
        for cert_file, key_file in ((str(certificate), str(key)), (str(both), "")):
            peer = Peer(url, "cam-7", tls=make_tls(ca_file, cert_file, key_file))
            async with peer.running():
                assert peer.ups == ["5"] and not peer.downs


async def test_tls_on_a_port_without_it_says_so(tmp_path: Path, world: World) -> None:
    async with mosquitto_with(tmp_path, "") as url:
        said = await refusal(url.replace("mqtt://", "mqtts://"), ca_file=str(world.ours.ca))
    assert said.startswith("the broker hung up instead of speaking TLS: if this port has none, write mqtt://")


async def test_a_wrong_password_points_to_its_file(tmp_path: Path, world: World) -> None:
    async with tls_broker(tmp_path, world.broker, f"{password_file(tmp_path, 'of')}\n") as url:
        settings = LiveConfig(
            broker=url, broker_user="of", broker_password_file=str(secret(tmp_path, "wrong-" + SECRET)),
            tls_ca_file=str(world.ours.ca),
        )  # fmt: skip
        access = open_access(settings)
        peer = Peer(access.url, "of-master", tls=access.tls)
        async with peer.running(up=False):
            await peer.until(lambda: peer.downs)
        assert peer.downs[0].endswith("check broker_user and broker_password_file") and SECRET not in peer.downs[0]


def secret(folder: Path, text: str) -> Path:
    path = folder / "password"
    path.write_text(text + "\n")
    return path


def password_file(folder: Path, user: str) -> str:
    """Lines for Mosquitto: `user` may come in with SECRET, and nobody else."""
    path = folder / "passwords"
    path.write_text(f"{user}:{SECRET}\n")
    subprocess.run(["mosquitto_passwd", "-U", str(path)], check=True)
    return f"password_file {path}\nallow_anonymous false"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tls_ca_file": "none.pem"}, "tls_ca_file: none.pem cannot be read: No such file or directory"),
        ({"tls_ca_file": "text"}, "tls_ca_file: text is not a PEM file of authorities"),
        ({"tls_cert_file": "text"}, "tls_cert_file: text is not a PEM certificate"),
        ({"tls_cert_file": "cert", "tls_key_file": "none.key"}, "tls_key_file: none.key cannot be read"),
        ({"tls_cert_file": "cert", "tls_key_file": "other"}, "tls_cert_file: cert is not a PEM certificate with its"),
        ({"tls_cert_file": "cert", "tls_key_file": "locked"}, "tls_key_file is encrypted"),
        ({"tls_key_file": "other"}, "tls_key_file without tls_cert_file"),
        ({"broker_password_file": "text"}, "broker_password_file without broker_user"),
        ({"broker_user": "of", "broker_password_file": "none"}, "broker_password_file: none cannot be read"),
        ({"broker_user": "of", "broker": f"mqtts://x:{SECRET}@h"}, "the user in mqtts://x@h: keep one"),
        ({"broker": "mqtt://h", "tls_cert_file": "cert"}, "tls_cert_file is for mqtts://; mqtt://h goes without TLS"),
        ({"broker": f"http://x:{SECRET}@h"}, "'http://x@h' is not a broker"),
    ],
)
def test_files_that_do_not_serve_are_named(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    certificate, key = world.client
    Path("text").write_text("no PEM")
    Path("cert").write_bytes(certificate.read_bytes())
    Path("other").write_bytes(world.broker[1].read_bytes())
    lock = [str(OPENSSL), "ec", "-in", str(key), "-aes256", "-passout", "pass:x", "-out", "locked"]
    subprocess.run(lock, check=True, capture_output=True)
    with pytest.raises(ConfigError) as refused:
        open_access(LiveConfig(**{"broker": "mqtts://h", **settings}))
    assert said in str(refused.value) and SECRET not in str(refused.value)


def test_a_url_is_shown_without_its_password() -> None:
    assert shown_url(f"mqtts://of:{SECRET}@h:1/?protocol=5") == "mqtts://of@h:1/?protocol=5"
    assert shown_url(f"mqtts://of:{SECRET}@x@h") == "mqtts://of@h"
    assert shown_url("mqtt://h") == "mqtt://h" and shown_url("nonsense") == "nonsense"
    refuse_password("mqtts://of@h")
    refuse_password(None)
    with pytest.raises(ConfigError, match="name it with --broker-password-file"):
        refuse_password(f"mqtts://of:{SECRET}@h")


def test_every_advice_is_one_sentence() -> None:
    expired = ssl.SSLCertVerificationError(1, "x")
    expired.verify_code, expired.verify_message = 10, "certificate has expired"
    assert "set this machine's clock" in advice(expired)
    assert "write mqtt://" in advice(ssl.SSLEOFError(8, "EOF occurred"))
    assert advice(ssl.SSLError(1, "something new")).startswith("TLS failed (")


@pytest.mark.parametrize("command", [("up",), ("master", "run"), ("agent", "run", "--id", "a", "--site", "s")])
def test_a_password_among_the_arguments_is_refused_and_not_repeated(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*command, "--broker", f"mqtts://of:{SECRET}@h"]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: --broker mqtts://of@h: ") and "--broker-password-file" in said.err
    assert SECRET not in said.err + said.out


@pytest.mark.slow
async def test_a_whole_system_over_tls_with_passwords_and_certificates(tmp_path: Path, world: World) -> None:
    """`up`, and an agent that joins from elsewhere, through a broker that wants a password and a certificate; no
    process shows the password in its arguments, and no log holds it."""
    wants = f"cafile {world.ours.ca}\nrequire_certificate true\n{password_file(tmp_path, 'of')}"
    certificate, key = world.client
    access = (
        *("--broker-user", "of", "--broker-password-file", str(secret(tmp_path, SECRET))),
        *("--tls-ca-file", str(world.ours.ca), "--tls-cert-file", str(certificate), "--tls-key-file", str(key)),
    )
    state, port = tmp_path / "state", free_port()
    async with tls_broker(tmp_path, world.broker, wants) as url:
        (tmp_path / "master.toml").write_text(
            f'broker = "{url}"\nbroker_user = "of"\nbroker_password_file = "{access[3]}"\npolicy = "fifo"\n'
            f'tls_ca_file = "{world.ours.ca}"\ntls_cert_file = "{certificate}"\ntls_key_file = "{key}"\n'
        )
        command = ("up", "--config", str(tmp_path / "master.toml"), "--agents", "1", "--http", f"127.0.0.1:{port}")
        with started(*command, "--state-dir", str(state)) as up:
            up.wait_for("^ready")
            joining = ("agent", "run", "--id", "cam-7", "--site", "s", "--broker", url, *access)
            with started(*joining, "--data-dir", str(tmp_path / "cam"), "--log-level", "debug") as agent:
                agent.wait_for("connected")
                client = Client(f"http://127.0.0.1:{port}")
                job_id = client.submit(ledger_job("safe", tmp_path / "ledger")).job_id
                assert wait_finished(client, job_id) == "finished"
                assert {entry.agent_id for entry in client.agents()} == {"cam-7", "edge-1"}
                ours = [up.process.pid, agent.process.pid, *(p.pid for p in psutil.Process(up.process.pid).children())]
                assert not any(SECRET in " ".join(psutil.Process(pid).cmdline()) for pid in ours)
                assert agent.end(signal.SIGTERM) == 0
            assert up.end() == 0
    told = [*agent.lines, *up.lines]
    told += [path.read_text(errors="replace") for path in state.rglob("*.log")]
    told += [path.read_text() for path in state.rglob("*.toml")]
    assert not any(SECRET in text for text in told)
    assert all(os.stat(path).st_mode & 0o077 == 0 for path in state.rglob("*.toml"))
