"""The collector destination: batches to ``POST /api/ingest/batch``, and whatever comes back turned into an outcome.

An outcome's reason says what happened and what to do next. It never holds the key, nor user and password of a URL.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Callable, Mapping, Sequence
from urllib.parse import unquote, urlsplit

from agent_sdk.delivery.destinations.base import (
    DELIVERED,
    REFUSED,
    RETRY,
    TOO_LARGE,
    UNAUTHORIZED,
    BatchLimits,
    Destination,
    Outcome,
    Rejection,
)
from agent_sdk.delivery.local_keys import is_loopback
from agent_sdk.wire.records import WIRE_VERSION
from agent_sdk.wire.version import USER_AGENT

if TYPE_CHECKING:
    from agent_sdk.delivery.destinations.failures import NoAnswer
    from agent_sdk.delivery.destinations.transport import Answer, Transport

_PATH = "/api/ingest/batch"
_COMPRESS_ABOVE = 1024
_COMPRESSION_LEVEL = 1
_LONGEST_RETRY_AFTER = 300.0
_LONGEST_REASON = 300
#: To blot out a user named "a" would only make a text unreadable.
_SHORTEST_SECRET = 4
#: A collector may ask for smaller batches than ours; larger ones would cost memory here.
_MOST = BatchLimits(16 * 1024 * 1024, 50_000, 16 * 1024 * 1024)
_KEPT = "records are kept and sent again"
#: What servers say, in no form of ours, to plain HTTP on a TLS port: it says nothing about the records.
_SPOKE_PLAIN_HTTP = (b"https port", b"https server")


class CollectorDestination(Destination):
    """Delivers to the collector at ``base_url``. ``key`` is asked at each batch, and may know none yet.

    A delivery takes no longer than ``timeout`` seconds, name resolution apart, ``connect_timeout`` of them for the
    connection. Never raises; a ``base_url`` that is none is told by each outcome. User and password in ``base_url``
    are sent as basic authentication, for a proxy in front of the collector.
    """

    def __init__(
        self, base_url: str, key: Callable[[], str | None], timeout: float = 10.0, connect_timeout: float = 3.0
    ) -> None:
        self._key = key
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._transport: Transport | None = None
        self._aborted = False
        self._place, self._login, self._problem = _read_url(base_url)
        self._is_local = is_loopback(self._place)

    def deliver(self, lines: Sequence[bytes], deadline: float) -> Outcome:
        """Post one batch. Loads ``requests`` the first time."""
        if not lines:
            return Outcome(DELIVERED)
        self._aborted = False
        deadline = min(deadline, time.monotonic() + self._timeout)
        key: str | None = None
        try:
            key = (self._key() or "").strip() or None
            outcome = self._unready(key) or self._post(lines, key, deadline)
        except ImportError as error:
            outcome = Outcome(RETRY, f"{error.name or 'requests'} cannot be imported: `pip install requests`; {_KEPT}")
        except Exception as error:  # a key callable that fails, no memory
            outcome = Outcome(RETRY, f"delivery to {self._place} failed ({type(error).__name__}): {_KEPT}")
        return self._without_secrets(outcome, key)

    def prepare(self) -> None:
        """Load ``requests`` and what a request loads later by itself."""
        import base64  # noqa: F401
        import email.utils  # noqa: F401
        import gzip  # noqa: F401

        from agent_sdk.delivery.destinations import transport  # noqa: F401

        "host".encode("idna")

    def abort(self) -> None:
        """End a delivery in progress."""
        self._aborted = True
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()

    # -- the request ---------------------------------------------------------------------------------------------

    def _unready(self, key: str | None) -> Outcome | None:
        """Why no request can be made."""
        if self._problem:
            return Outcome(RETRY, self._problem)
        if key is None:
            where = f"there is no API key for {self._place}: set AGENT_SDK_API_KEY or pass api_key=; {_KEPT}"
            return None if self._is_local else Outcome(UNAUTHORIZED, where)
        if not (key.isascii() and key.isprintable()):
            reason = "the API key holds characters that no key has: check AGENT_SDK_API_KEY for line breaks and quotes"
            return Outcome(UNAUTHORIZED, reason)
        return None

    def _post(self, lines: Sequence[bytes], key: str | None, deadline: float) -> Outcome:
        from agent_sdk.delivery.destinations.failures import ABORTED, NoAnswer
        from agent_sdk.delivery.destinations.transport import Transport

        body, headers = _request(lines, key, self._login)
        if self._transport is None:
            self._transport = Transport(self._connect_timeout)
        if self._aborted:  # while requests was loaded or the body compressed, when there was nothing to shut down
            return Outcome(RETRY, self._explain(NoAnswer(ABORTED)))
        try:
            answer = self._transport.post(self._place + _PATH, body, headers, deadline, use_proxies=not self._is_local)
        except NoAnswer as failure:
            return Outcome(RETRY, self._explain(failure))
        return self._judge(answer, len(lines))

    def _without_secrets(self, outcome: Outcome, key: str | None) -> Outcome:
        """Make one bounded line of each text: parts of them come from a server, which may repeat what it was sent."""
        secrets = [secret for secret in (key or "", *self._login) if len(secret) >= _SHORTEST_SECRET]
        rejected = tuple(Rejection(rejection.line, _clean(rejection.reason, secrets)) for rejection in outcome.rejected)
        return outcome._replace(reason=_clean(outcome.reason, secrets), rejected=rejected)

    # -- answers -------------------------------------------------------------------------------------------------

    def _judge(self, answer: Answer, lines: int) -> Outcome:
        status = answer.status
        if status == 200:
            return _receipt(answer.body, lines) or Outcome(RETRY, self._stranger("200 without a collector's receipt"))
        if 300 <= status < 400:
            return Outcome(RETRY, self._redirect(answer))
        if status in (400, 422):
            return self._refusal(answer)
        if status in (401, 403):
            return Outcome(UNAUTHORIZED, self._unauthorized(answer))
        if status == 413:
            return Outcome(TOO_LARGE, f"{self._place} takes no batch of this size: it answered 413{_detail(answer)}")
        if status in (408, 425, 429) or status >= 500:
            reason = f"{self._place} answered {status}{_detail(answer)}: {_KEPT}"
            return Outcome(RETRY, reason, retry_after=_retry_after(answer.headers))
        return Outcome(RETRY, self._unexpected(answer))

    def _refusal(self, answer: Answer) -> Outcome:
        if any(phrase in answer.body.lower() for phrase in _SPOKE_PLAIN_HTTP) and not _detail(answer):
            return Outcome(RETRY, f"{self._place} wants TLS: set AGENT_SDK_BASE_URL to its https:// address")
        return Outcome(REFUSED, f"{self._place} answered {answer.status}{_detail(answer)}")

    def _redirect(self, answer: Answer) -> str:
        target = _origin(answer.headers.get("location", "")) or "another place"
        return f"{self._place} redirects to {target}: set AGENT_SDK_BASE_URL to the collector's own address"

    def _unauthorized(self, answer: Answer) -> str:
        told = f"{self._place} does not take the API key: it answered {answer.status}{_detail(answer)}"
        if self._is_local:
            return f"{told}; set AGENT_SDK_API_KEY, or run program and collector with the same AGENT_SDK_HOME; {_KEPT}"
        return f"{told}; check AGENT_SDK_API_KEY; {_KEPT}"

    def _unexpected(self, answer: Answer) -> str:
        if answer.status in (404, 405):
            return self._stranger(f"{answer.status}, so it has no {_PATH}")
        if answer.status == 407:
            return f"the proxy on the way to {self._place} wants a user and a password: put them into HTTP_PROXY"
        return self._stranger(f"{answer.status}{_detail(answer)}")

    def _stranger(self, told: str) -> str:
        return f"{self._place} answered {told}: check that AGENT_SDK_BASE_URL names a collector; {_KEPT}"

    # -- failures ------------------------------------------------------------------------------------------------

    def _explain(self, failure: NoAnswer) -> str:
        from agent_sdk.delivery.destinations import failures

        place, detail = self._place, f" ({failure.detail})" if failure.detail else ""
        if failure.cause == failures.REFUSED and self._is_local:
            return f"no collector at {place}: start one with `agent-sdk serve`; records are kept in the journal"
        texts = {
            failures.ABORTED: f"the delivery to {place} was broken off: {_KEPT}",
            failures.BAD_SETTING: "REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE names no file of certificates: correct it",
            failures.BAD_URL: f"no request can be made to {place}: check AGENT_SDK_BASE_URL and HTTPS_PROXY",
            failures.CLOSED: f"{place} closed the connection before it answered: {_KEPT}",
            failures.CONNECT_TIMEOUT: f"no connection to {place} in time: check its address and firewalls; {_KEPT}",
            failures.NAME: f"the host of {place} cannot be found{detail}: check AGENT_SDK_BASE_URL and DNS; {_KEPT}",
            failures.NOT_HTTP: f"{place} does not answer with HTTP: check the port and http:// or https://; {_KEPT}",
            failures.NO_TLS: f"no TLS with {place}{detail}: check the port, and whether it should be http://; {_KEPT}",
            failures.PROXY: f"the proxy to {place} fails{detail}: check HTTP_PROXY, HTTPS_PROXY and NO_PROXY; {_KEPT}",
            failures.REFUSED: f"nothing listens at {place}: check AGENT_SDK_BASE_URL, and that it runs; {_KEPT}",
            failures.TIMEOUT: f"{place} did not answer in time: {_KEPT}",
            failures.UNTRUSTED: f"the certificate of {place} is not trusted{detail}: set REQUESTS_CA_BUNDLE to the "
            f"file of its authority; {_KEPT}",
        }
        return texts.get(failure.cause, f"the connection to {place} failed{detail}: {_KEPT}")


def _request(lines: Sequence[bytes], key: str | None, login: Sequence[str]) -> tuple[bytes, dict[str, str]]:
    body = b"".join(lines)
    headers = {
        "Content-Type": "application/x-ndjson",
        "Accept": "application/json",
        "User-Agent": USER_AGENT,
        "X-Agent-SDK-Wire": str(WIRE_VERSION),
    }
    if key is not None:
        headers["X-Agentscope-Key"] = key
    if login:
        from base64 import b64encode

        headers["Authorization"] = "Basic " + b64encode(":".join(login).encode()).decode()
    if len(body) > _COMPRESS_ABOVE:
        from gzip import compress

        body = compress(body, _COMPRESSION_LEVEL)
        headers["Content-Encoding"] = "gzip"
    return body, headers


# -- reading what a server says ----------------------------------------------------------------------------------


def _receipt(body: bytes, lines: int) -> Outcome | None:
    """The outcome of a 200, if the body is the receipt that a collector gives for so many lines."""
    try:
        receipt = json.loads(body)
        rejected = {_count(item["index"]): str(item["reason"]) for item in receipt["rejected"]}
        told = _count(receipt["accepted"]) + _count(receipt["duplicates"]) + len(receipt["rejected"])
        limits = _limits(receipt.get("limits"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if told != lines or len(rejected) != len(receipt["rejected"]) or any(line >= lines for line in rejected):
        return None
    return Outcome(DELIVERED, rejected=tuple(Rejection(*item) for item in sorted(rejected.items())), limits=limits)


def _count(found: Any) -> int:
    if type(found) is not int or found < 0:
        raise TypeError("not a count")
    return found


def _limits(found: Any) -> BatchLimits | None:
    if not isinstance(found, dict):
        return None
    ours = BatchLimits()._asdict()
    return BatchLimits(
        **{
            name: min(found[name], most) if type(found.get(name)) is int and found[name] > 0 else ours[name]
            for name, most in _MOST._asdict().items()
        }
    )


def _detail(answer: Answer) -> str:
    """What the server says to an error in the form of our contract, to go on with."""
    try:
        detail = json.loads(answer.body)["detail"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return f', "{detail}"' if detail and isinstance(detail, str) else ""


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait. A date is read against the server's own clock, which may differ from ours."""
    wanted = headers.get("retry-after", "").strip()
    if wanted.isascii() and wanted.isdigit():
        return min(float(wanted[:20]), _LONGEST_RETRY_AFTER)
    until = _timestamp(wanted)
    if until is None:
        return None
    now = _timestamp(headers.get("date", ""))
    return min(max(0.0, until - (time.time() if now is None else now)), _LONGEST_RETRY_AFTER)


def _timestamp(date: str) -> float | None:
    from email.utils import parsedate_to_datetime

    try:
        return parsedate_to_datetime(date).timestamp()
    except Exception:  # which ones depends on the version of Python
        return None


# -- URLs and texts ----------------------------------------------------------------------------------------------


def _read_url(url: str) -> tuple[str, tuple[str, ...], str]:
    """The URL without credentials, query and fragment; the credentials; and what is wrong with it, if anything is."""
    origin = _origin(url)
    if not origin:
        return "the collector", (), "the collector's address is no http:// or https:// URL: correct AGENT_SDK_BASE_URL"
    parts = urlsplit(url.strip())
    login = (unquote(parts.username or ""), unquote(parts.password or "")) if "@" in parts.netloc else ()
    return origin + parts.path.rstrip("/"), login, ""


def _origin(url: str) -> str:
    """Scheme, host and port of an absolute HTTP URL, without credentials; empty for anything else."""
    try:
        parts = urlsplit(url.strip())
        port = f":{parts.port}" if parts.port is not None else ""
    except (ValueError, AttributeError):
        return ""
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https") or not host or not host.isprintable() or set(" \\") & set(host):
        return ""
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{port}"


def _clean(text: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "[redacted]")
    text = "".join(character if character.isprintable() else " " for character in text[: 4 * _LONGEST_REASON])
    return text if len(text) <= _LONGEST_REASON else text[: _LONGEST_REASON - 1] + "…"
