"""What a link shows the broker and what it trusts: user and password, certificates, the authority behind the broker's.

Secrets come from files, never from arguments, and no text made here holds one. TLS is 1.2 or later, the broker's
certificate must be signed by a trusted authority and name the host that was asked for; nothing turns that off.
"""

import ssl
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import quote, urlsplit

from federation.errors import ConfigError
from federation.mqtt_parts import parse_url, shown_url


class BrokerSettings(Protocol):
    """What the settings of master and agent have in common; every one but `broker` may be ""."""

    @property
    def broker(self) -> str: ...
    @property
    def broker_user(self) -> str: ...
    @property
    def broker_password_file(self) -> str: ...
    @property
    def tls_ca_file(self) -> str: ...
    @property
    def tls_cert_file(self) -> str: ...
    @property
    def tls_key_file(self) -> str: ...


class LinkTls(ssl.SSLContext):
    """The context of one link's connections. `failure` is how the last of them failed after the handshake: in TLS 1.3
    a broker refuses a client's certificate only then, and the MQTT library keeps the reason to itself."""

    failure: ssl.SSLError | None = None


class _Socket(ssl.SSLSocket):
    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        try:
            return super().recv(buflen, flags)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            if isinstance(self.context, LinkTls):
                self.context.failure = error
            raise


class Access(NamedTuple):
    url: str  # with user and password: to be shown to nobody but the broker
    tls: LinkTls | None


def open_access(settings: BrokerSettings) -> Access:
    """Read the files that the settings name. Raises `ConfigError`, naming the key and the mend."""
    try:
        address = parse_url(settings.broker)
    except ValueError as error:
        raise ConfigError(f"broker: {error}") from None
    if settings.broker_password_file and not settings.broker_user:
        raise ConfigError("broker_password_file without broker_user: set the user it belongs to")
    url = settings.broker
    if settings.broker_user:
        if address.username is not None:
            raise ConfigError(f"broker_user and the user in {shown_url(url)}: keep one")
        url = _with_user(url, settings.broker_user, _secret(settings.broker_password_file))
    if address.is_tls:
        return Access(url, make_tls(settings.tls_ca_file, settings.tls_cert_file, settings.tls_key_file))
    if settings.tls_cert_file or settings.tls_key_file:
        raise ConfigError(f"tls_cert_file is for mqtts://; {shown_url(url)} goes without TLS")
    return Access(url, None)


def refuse_password(url: str | None) -> None:
    """For a URL that came as an argument. Raises `ConfigError` if it holds a password."""
    access, at, _ = (url or "").partition("://")[2].rpartition("@")
    if url is not None and at and ":" in access:
        raise ConfigError(
            f"--broker {shown_url(url)}: arguments can be read by everyone on this machine; write the password into a "
            "file and name it with --broker-password-file, beside --broker-user"
        )


def make_tls(ca_file: str = "", cert_file: str = "", key_file: str = "") -> LinkTls:
    """Trust `ca_file` ("": the system's authorities) and show `cert_file` where there is one (its key in `key_file`,
    or in the same file). Raises `ConfigError`."""
    context = LinkTls(ssl.PROTOCOL_TLS_CLIENT)  # It checks certificate and host name.
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.sslsocket_class = _Socket
    if key_file and not cert_file:
        raise ConfigError("tls_key_file without tls_cert_file: set the certificate it belongs to")
    if ca_file:
        _checked("tls_ca_file", ca_file, lambda path: context.load_verify_locations(path), "a PEM file of authorities")
    else:
        context.load_default_certs()
    if cert_file:
        key = str(Path(key_file).expanduser()) if key_file else None
        if key is not None:
            _checked("tls_key_file", key_file, lambda path: path.open("rb").close(), "a readable key")
        # An encrypted key would make OpenSSL ask at the terminal.
        _checked(
            "tls_cert_file", cert_file, lambda path: context.load_cert_chain(path, key, password=_no_password),
            "a PEM certificate with its unencrypted key there or in tls_key_file",
        )  # fmt: skip
    return context


def _no_password() -> str:
    raise ConfigError("tls_key_file is encrypted: write the key without a password, readable by this user alone")


def _checked(key: str, name: str, load: Any, wanted: str) -> None:
    path = Path(name).expanduser()
    try:
        load(path)
    except ssl.SSLError as error:
        raise ConfigError(f"{key}: {path} is not {wanted} ({error.reason or error})") from None
    except OSError as error:
        raise ConfigError(f"{key}: {path} cannot be read: {error.strerror or error}") from None


def _secret(path: str) -> str:
    if not path:
        return ""
    try:
        return Path(path).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(f"broker_password_file: {path} cannot be read: {reason}") from None


def _with_user(url: str, user: str, password: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=f"{quote(user, safe='')}:{quote(password, safe='')}@{parts.netloc}").geturl()


# What OpenSSL says, as it appears in `SSLError.reason` (openssl/sslerr.h), and what is to be done about it.
_ADVICE: Final = {
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "the broker wants a client certificate: set tls_cert_file and tls_key_file",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "the broker ended the handshake: it may want a client certificate "
    "(tls_cert_file and tls_key_file), or a TLS version this side does not speak",
    "TLSV1_ALERT_UNKNOWN_CA": "the broker does not trust our certificate: set tls_cert_file to one that the broker's "
    "own authority signed",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "our certificate has expired: renew tls_cert_file",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "our certificate was revoked: renew tls_cert_file",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the broker refuses our certificate: check tls_cert_file",
    "WRONG_VERSION_NUMBER": "the broker speaks no TLS on this port: write mqtt://, or the port of its TLS listener",
}
# X509_V_ERR_… of openssl/x509_vfy.h.
_HOSTNAME_MISMATCH, _IP_MISMATCH, _EXPIRED, _NOT_YET_VALID = 62, 64, 10, 9


def advice(error: ssl.SSLError | ConnectionResetError) -> str:
    """The failure of a TLS connection as one sentence that says what to do."""
    if isinstance(error, ConnectionResetError | ssl.SSLEOFError):
        return (
            "the broker hung up instead of speaking TLS: if this port has none, write mqtt:// or the port that has it"
        )
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = error.verify_message
        if error.verify_code in (_HOSTNAME_MISMATCH, _IP_MISMATCH):
            return f"the broker's certificate is for another host ({reason}): write the host that it names in the URL"
        if error.verify_code in (_EXPIRED, _NOT_YET_VALID):
            return f"the broker's certificate is out of date ({reason}): renew it, or set this machine's clock"
        return f"the broker's certificate is not trusted ({reason}): set tls_ca_file to the authority that signed it"
    reason = getattr(error, "reason", None) or str(error)  # OpenSSL's own errors have one.
    return _ADVICE.get(reason, f"TLS failed ({reason})")
