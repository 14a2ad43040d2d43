"""Who may ask. Tokens in constant time; without one, only this machine, and no web page that a browser here shows."""

import base64
import hmac
from urllib.parse import urlsplit

from aiohttp import web

from federation.http.problems import refuse
from federation.http.route import Access
from federation.http.settings import HttpConfig, is_loopback

OPERATOR = "operator"
AGENT = "agent"
LOCAL = "local"  # no token is configured: whoever is on this machine


def check_source(request: web.BaseRequest, config: HttpConfig) -> None:
    """Refuse what a browser was tricked into sending. Raises `ProblemError`.

    Without a token, being on this machine is the only credential, and a browser on it lends that to any page: through
    a name that resolves to 127.0.0.1 (DNS rebinding: the Host header tells) or by posting across origins (the Origin
    header tells). With a token neither works, as no page knows it; no answer ever carries a CORS header.
    """
    if not config.token:
        name = _host_name(request.headers.get("Host", ""))
        if not (is_loopback(name) or name == config.host.lower()):
            raise refuse("foreign_host", f"Host {name[:255]!r} is not this master; ask 127.0.0.1 or localhost")
    origin = request.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc.lower() != request.headers.get("Host", "").lower():
        raise refuse("foreign_origin", f"a page of {origin[:255]!r} asked; only the master's own pages may")


def principal_of(request: web.BaseRequest, config: HttpConfig, access: Access) -> str:
    """Who asks. Raises `ProblemError` (401, 403) if the route is not for them."""
    if access == "framework":
        return _framework(request, config)
    if not config.token or access == "open":
        return LOCAL
    scheme, _, shown = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not shown:
        raise refuse("unauthorized", "send Authorization: Bearer <token>", {"WWW-Authenticate": "Bearer"})
    token = shown.strip().encode("utf-8", "surrogateescape")
    # Both are compared whatever the first says, so that the time tells nothing.
    is_operator = hmac.compare_digest(token, config.token.encode())
    is_agent = hmac.compare_digest(token, config.data_token.encode()) and bool(config.data_token)
    if is_operator:
        return OPERATOR
    if not is_agent:
        raise refuse("unauthorized", "the token is not known", {"WWW-Authenticate": 'Bearer error="invalid_token"'})
    if access == "full":
        raise refuse("forbidden", "the data token reads shards and nothing else; use the master's token")
    return AGENT


_CHALLENGE = {"WWW-Authenticate": 'Basic realm="offerflow"'}


def _framework(request: web.BaseRequest, config: HttpConfig) -> str:
    """The principal of a framework: of its Basic credentials, "" for one that shows none and need not."""
    header = request.headers.get("Authorization", "")
    scheme, _, shown = header.partition(" ")
    principal, secret = _basic(shown) if scheme.lower() == "basic" else ("", "")
    known = False
    for credential in config.credentials:  # All are compared, so that the time tells nothing.
        same = hmac.compare_digest(secret.encode("utf-8", "surrogateescape"), credential.secret.encode())
        known |= same and credential.principal == principal
    if known:
        return principal
    if not config.token and not config.credentials:
        return principal  # Not proven, as nothing is on this machine; it tells frameworks apart.
    if config.token:
        token = (secret if scheme.lower() == "basic" else shown.strip()).encode("utf-8", "surrogateescape")
        if hmac.compare_digest(token, config.token.encode()):
            return principal or OPERATOR
        if config.data_token and hmac.compare_digest(token, config.data_token.encode()):
            raise refuse("forbidden", "the data token reads shards and nothing else")
    raise refuse("unauthorized", "send Authorization: Basic with the principal and its secret", _CHALLENGE)


def _basic(shown: str) -> tuple[str, str]:
    """Principal and secret. Raises `ProblemError` (401) where it is none."""
    try:
        principal, mark, secret = base64.b64decode(shown.strip(), validate=True).decode().partition(":")
    except ValueError:
        principal, mark, secret = "", "", ""
    if not mark or not principal:
        raise refuse("unauthorized", "the Basic credentials are not principal:secret in Base64", _CHALLENGE)
    return principal, secret


def _host_name(host: str) -> str:
    """The name of `name`, `name:port`, `[v6]` or `[v6]:port`, lower case; "" if it is none of them."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""
