"""Why a request got no answer, in words of our own: many libraries' errors to few causes.

Of an error's own text nothing is repeated that may hold a URL, its password, or the key. Loads ``requests``, as the
transport does.
"""

from __future__ import annotations

import http.client
import re
import socket
import ssl
from typing import Any, Iterator, NamedTuple

import requests.exceptions as requests_errors
import urllib3.exceptions as urllib3_errors

ABORTED = "aborted"
BAD_URL = "bad url"
BAD_SETTING = "bad setting"
CLOSED = "closed"
CONNECT_TIMEOUT = "connect timeout"
NAME = "name"
NOT_HTTP = "not http"
NO_TLS = "no tls"
OTHER = "other"
PROXY = "proxy"
REFUSED = "refused"
TIMEOUT = "timeout"
UNTRUSTED = "untrusted"

_BAD_URL = (
    requests_errors.InvalidURL,
    requests_errors.MissingSchema,
    requests_errors.InvalidSchema,
    urllib3_errors.LocationValueError,
)
_BAD_PROXY_URL = (requests_errors.InvalidProxyURL, urllib3_errors.ProxySchemeUnknown)
_TIMEOUT = (socket.timeout, TimeoutError, urllib3_errors.TimeoutError)
#: By name, for the second has moved from module to module.
_UNTRUSTED = ("SSLCertVerificationError", "CertificateError")
_CLOSED = (ConnectionError, http.client.RemoteDisconnected, http.client.IncompleteRead, ssl.SSLEOFError)


class NoAnswer(Exception):  # noqa: N818 - a thing that happens, not a mistake
    """There is no answer: ``cause`` is one of this module's words for why, ``detail`` says more, without secrets.

    It is never chained to the error behind it, whose request holds the key.
    """

    def __init__(self, cause: str, detail: str = "") -> None:
        super().__init__(f"{cause}: {detail}" if detail else cause)
        self.cause = cause
        self.detail = detail


class Progress(NamedTuple):
    """How far a request had come when it failed."""

    aborted: bool
    connecting: bool
    answered: bool  # a byte has come back


def explain(error: BaseException, progress: Progress) -> NoAnswer:
    """``error``, and what it was made from, in our words."""
    if progress.aborted:
        return NoAnswer(ABORTED)
    chain = list(_chain(error))
    for judge in (_proxy_trouble, _address_trouble, _tls_trouble, _connection_trouble):
        answer = judge(chain, progress)
        if answer is not None:
            return answer
    return NoAnswer(OTHER, _describe(chain))


def _proxy_trouble(chain: list[BaseException], progress: Progress) -> NoAnswer | None:
    if _first(chain, _BAD_PROXY_URL):
        return NoAnswer(PROXY, "its address is not a URL")
    if _first(chain, (urllib3_errors.ProxyError,)) is None:
        return None
    status = re.search(r"Tunnel connection failed: (\d{3})", " ".join(str(link) for link in chain))
    if status:
        return NoAnswer(PROXY, f"it answered {status.group(1)}")
    trouble = _connection_trouble(chain, progress)
    return NoAnswer(PROXY, trouble.cause if trouble else _describe(chain))


def _address_trouble(chain: list[BaseException], progress: Progress) -> NoAnswer | None:
    if _first(chain, (socket.gaierror,)):
        return NoAnswer(NAME, _describe(chain))
    if _first(chain, (*_BAD_URL, UnicodeError)):
        socks = any("SOCKS" in str(link) for link in chain)
        return NoAnswer(PROXY, "a SOCKS proxy needs `pip install requests[socks]`") if socks else NoAnswer(BAD_URL)
    if any("TLS CA certificate bundle" in str(link) for link in chain):
        return NoAnswer(BAD_SETTING)
    return None


def _tls_trouble(chain: list[BaseException], progress: Progress) -> NoAnswer | None:
    # urllib3 1.26 compares host names itself, and has an error of its own for it.
    untrusted = next((link for link in chain if type(link).__name__ in _UNTRUSTED), None)
    if untrusted is not None:
        return NoAnswer(UNTRUSTED, str(getattr(untrusted, "verify_message", "it is for another host")))
    failed = _first(chain, (ssl.SSLError,))
    if failed is None or isinstance(failed, (ssl.SSLEOFError, *_TIMEOUT)):
        return None
    return NoAnswer(NO_TLS, str(getattr(failed, "reason", None) or "handshake failed").lower().replace("_", " "))


def _connection_trouble(chain: list[BaseException], progress: Progress) -> NoAnswer | None:
    if _first(chain, (ConnectionRefusedError,)):
        return NoAnswer(REFUSED)
    if _first(chain, _TIMEOUT):
        return NoAnswer(CONNECT_TIMEOUT if progress.connecting else TIMEOUT)
    if _first(chain, _CLOSED):
        return NoAnswer(CLOSED)
    if _first(chain, (http.client.HTTPException, urllib3_errors.HTTPError)) and progress.answered:
        return NoAnswer(NOT_HTTP)
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and all that it was made from, the outermost first."""
    seen: set[int] = set()
    pending: list[Any] = [error]
    while pending:
        link = pending.pop(0)
        if isinstance(link, BaseException) and id(link) not in seen:
            seen.add(id(link))
            yield link
            pending += [getattr(link, "reason", None), *link.args, link.__cause__, link.__context__]


def _first(chain: list[BaseException], kinds: tuple[type[BaseException], ...]) -> BaseException | None:
    return next((link for link in chain if isinstance(link, kinds)), None)


def _describe(chain: list[BaseException]) -> str:
    """The operating system's words for it, which hold nothing of ours; else the name of the error's class."""
    for link in chain:
        if isinstance(link, OSError) and type(link.errno) is int and link.strerror:
            return str(link.strerror)
    return type(chain[-1]).__name__
