"""The collector destination: batches to ``POST /api/ingest/batch``, and every answer it may get turned into an outcome.

An outcome's reason says what happened and what to do next. It never holds the key, nor user and password of the URL.
"""

from __future__ import annotations

import gzip
import json
import time
from typing import Any, Callable, Mapping, Sequence
from urllib.parse import urlsplit

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
from agent_sdk.delivery.destinations.transport import Answer, Transport
from agent_sdk.delivery.local_keys import is_loopback
from agent_sdk.wire.records import WIRE_VERSION
from agent_sdk.wire.version import USER_AGENT

_PATH = "/api/ingest/batch"
_COMPRESS_ABOVE = 1024
_COMPRESSION_LEVEL = 1
_LONGEST_RETRY_AFTER = 300.0


class CollectorDestination(Destination):
    """Delivers to the collector at ``base_url``. ``key`` is asked at each batch and may know none."""

    def __init__(self, base_url: str, key: Callable[[], str | None], timeout: float = 10.0) -> None:
        self._url = base_url.rstrip("/") + _PATH
        self._place = _without_credentials(base_url)
        self._is_local = is_loopback(base_url)
        self._key = key
        self._timeout = timeout
        self._transport = Transport()

    def deliver(self, lines: Sequence[bytes], deadline: float) -> Outcome:
        """Post one batch."""
        key = self._key()
        if key is None and not self._is_local:
            return Outcome(UNAUTHORIZED, f"there is no key for {self._place}: set AGENT_SDK_API_KEY or pass api_key=")
        body, headers = _request(lines, key)
        deadline = min(deadline, time.monotonic() + self._timeout)
        try:
            answer = self._transport.post(self._url, body, headers, deadline)
        except Exception as error:
            self._transport.close()
            return Outcome(RETRY, self._explain(error))
        return self._outcome(answer, len(lines))

    def abort(self) -> None:
        """End a request in progress."""
        self._transport.abort()

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    # -- answers -------------------------------------------------------------------------------------------------

    def _outcome(self, answer: Answer, lines: int) -> Outcome:
        status = answer.status
        if status == 200:
            return _accepted(answer, lines) or Outcome(RETRY, self._stranger("an answer that is not a collector's"))
        if status in (401, 403):
            return Outcome(UNAUTHORIZED, self._unauthorized(status))
        if status == 413:
            return Outcome(TOO_LARGE, f"{self._place} takes no batch of this size")
        if status in (400, 422):
            return Outcome(REFUSED, f"{self._place} answered {status}: {_detail(answer)}")
        if status in (404, 405):
            return Outcome(RETRY, self._stranger(f"{status}, so there is no {_PATH}"))
        if 300 <= status < 400:
            host = urlsplit(answer.headers.get("location", "")).hostname or "another place"
            return Outcome(RETRY, f"{self._place} redirects to {host}: set AGENT_SDK_BASE_URL to where it leads")
        if status in (408, 425, 429) or status >= 500:
            wait = _retry_after(answer.headers)
            return Outcome(RETRY, f"{self._place} answered {status}: it will be tried again", retry_after=wait)
        return Outcome(RETRY, self._stranger(str(status)))

    def _stranger(self, what: str) -> str:
        return f"{self._place} answered {what}: is a proxy in between, or AGENT_SDK_BASE_URL wrong?"

    def _unauthorized(self, status: int) -> str:
        if self._is_local:
            return (
                f"{self._place} does not take our key ({status}): records are kept; start program and collector with "
                "the same AGENT_SDK_HOME, or set AGENT_SDK_API_KEY"
            )
        return f"{self._place} does not take our key ({status}): records are kept; check AGENT_SDK_API_KEY"

    # -- failures ------------------------------------------------------------------------------------------------

    def _explain(self, error: BaseException) -> str:
        """The cause in words. The error's own text is not shown: it may hold the URL with its password."""
        names = _names(error)
        if names & {"ProxyError"}:
            return f"the proxy on the way to {self._place} cannot be used: check HTTPS_PROXY and NO_PROXY"
        if names & {"SSLError", "SSLCertVerificationError"}:
            return f"the certificate of {self._place} is not trusted: set REQUESTS_CA_BUNDLE to your authority's file"
        if names & {"gaierror", "NameResolutionError", "LocationParseError", "InvalidURL", "UnicodeError"}:
            return f"the host of {self._place} cannot be found: check AGENT_SDK_BASE_URL"
        if "ConnectionRefusedError" in names or (self._is_local and "NewConnectionError" in names):
            hint = "start one with `agent-sdk serve`" if self._is_local else "is it running?"
            return f"there is no collector at {self._place}: {hint}; records are kept in the journal until then"
        if names & {"timeout", "TimeoutError", "ReadTimeout", "ConnectTimeout", "Timeout", "ConnectTimeoutError"}:
            return f"{self._place} does not answer in time: records are kept and tried again"
        return f"the connection to {self._place} failed ({type(error).__name__}): records are kept and tried again"


def _request(lines: Sequence[bytes], key: str | None) -> tuple[bytes, dict[str, str]]:
    body = b"".join(lines)
    headers = {
        "Content-Type": "application/x-ndjson",
        "Accept": "application/json",
        "Accept-Encoding": "identity",
        "User-Agent": USER_AGENT,
        "X-Agent-SDK-Wire": str(WIRE_VERSION),
    }
    if key is not None:
        headers["X-Agentscope-Key"] = key
    if len(body) > _COMPRESS_ABOVE:
        body = gzip.compress(body, _COMPRESSION_LEVEL)
        headers["Content-Encoding"] = "gzip"
    return body, headers


def _accepted(answer: Answer, lines: int) -> Outcome | None:
    """The outcome of a 200, if its body is one that a collector gives."""
    try:
        body = json.loads(answer.body)
        rejected = tuple(Rejection(int(item["index"]), str(item["reason"])[:500]) for item in body["rejected"])
        if int(body["accepted"]) + int(body["duplicates"]) + len(rejected) != lines:
            return None
        if any(not 0 <= rejection.line < lines for rejection in rejected):
            return None
        return Outcome(DELIVERED, rejected=rejected, limits=_limits(body.get("limits")))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _limits(found: Any) -> BatchLimits | None:
    if not isinstance(found, dict):
        return None
    known = {name: found[name] for name in BatchLimits._fields if type(found.get(name)) is int and found[name] > 0}
    return BatchLimits(**known)


def _detail(answer: Answer) -> str:
    try:
        detail = json.loads(answer.body)["detail"]
    except (ValueError, KeyError, TypeError):
        return "it gives no reason"
    return detail[:200] if isinstance(detail, str) else "the batch does not have the form that it expects"


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait. A date is read against the server's own clock, which may differ from ours."""
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = _seconds_until(value, headers.get("date", ""))
    return min(max(0.0, seconds), _LONGEST_RETRY_AFTER)


def _seconds_until(date: str, now: str) -> float:
    from email.utils import parsedate_to_datetime

    try:
        wanted = parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError):
        return 0.0
    try:
        return wanted - parsedate_to_datetime(now).timestamp()
    except (TypeError, ValueError):
        return wanted - time.time()


def _names(error: BaseException | None) -> set[str]:
    """Names of all classes of an error and of what it was made from."""
    names: set[str] = set()
    pending: list[Any] = [error]
    seen: set[int] = set()
    while pending:
        link = pending.pop()
        if not isinstance(link, BaseException) or id(link) in seen:
            continue
        seen.add(id(link))
        names.update(kind.__name__ for kind in type(link).__mro__)
        pending += [link.__cause__, link.__context__, getattr(link, "reason", None), *link.args]
    return names


def _without_credentials(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")
