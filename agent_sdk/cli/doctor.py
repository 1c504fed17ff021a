"""Why traces do not show up: every station on the way of a record, tried one after the other.

Each check says what it found and, where something is wrong, what to do. It reads the same settings, key and proxies as
a tracker in the same shell would, sends a test run over the same way, and reads it back.
"""

from __future__ import annotations

import difflib
import importlib.util
import json
import os
import shutil
import socket
import time
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, NamedTuple
from urllib.parse import urlsplit

import requests
import requests.utils
from rich.console import Console
from rich.markup import escape

from agent_sdk import create_tracker
from agent_sdk.delivery import journal as journals
from agent_sdk.delivery import local_keys
from agent_sdk.delivery.destinations import open_destination
from agent_sdk.delivery.destinations.base import DELIVERED, UNAUTHORIZED
from agent_sdk.recording.configuration import Configuration, Setting, killed
from agent_sdk.wire.version import USER_AGENT

OK, WARNING, FAILURE = "ok", "warning", "failure"
_SHAPES = {OK: "[green]✓[/green]", WARNING: "[yellow]![/yellow]", FAILURE: "[red]✕[/red]"}
_MOST_SKEW = 60.0
_LITTLE_ROOM = 256 * 1024 * 1024
_PATIENCE = 10.0


class Finding(NamedTuple):
    """What one check found: ``state`` is ``ok``, ``warning`` or ``failure``, ``fix`` what to do about it."""

    check: str
    state: str
    text: str
    fix: str = ""


class Doctor:
    """Looks at one configuration. ``findings`` yields as it goes, and ends early where nothing more can be tried."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self.configuration = Configuration({"strict": False}, {**environment, "AGENT_SDK_STRICT": ""})
        self._settings: dict[str, Setting] = self.configuration.settings
        delivery = self.configuration.delivery()
        self._home: str = delivery.home
        self._url: str = delivery.destination
        self._key = delivery.api_key or local_keys.read(self._home, self._url)
        self._is_http = urlsplit(self._url).scheme in ("http", "https")
        self._is_local = local_keys.is_loopback(self._url)
        self._health: Any = None

    def findings(self) -> Iterator[Finding]:
        """All checks, in the order in which a record meets their subjects."""
        checks: list[Callable[[], Iterator[Finding]]] = [
            self._switch,
            self._spelling,
            self._problems,
            self._home_folder,
        ]
        if self._is_http:
            checks += [self._api_key, self._proxy, self._name, self._collector, self._clock]
        checks += [self._delivery, self._backlog, self._speed]
        for check in checks:
            yield from check()

    # -- settings ------------------------------------------------------------------------------------------------

    def _switch(self) -> Iterator[Finding]:
        if killed() or self.configuration.disabled:
            yield Finding("recording", FAILURE, "is switched off by AGENT_SDK_DISABLED", "unset AGENT_SDK_DISABLED")
        else:
            yield Finding("recording", OK, "is switched on")

    def _spelling(self) -> Iterator[Finding]:
        known = ["AGENT_SDK_" + name.upper() for name in self._settings]
        for name in sorted(self._environment):
            if name.startswith("AGENT_SDK_") and name not in known:
                near = difflib.get_close_matches(name, known, 1)
                fix = f"write {near[0]}" if near else "remove it; README lists the settings"
                yield Finding("settings", WARNING, f"{name} is no setting", fix)

    def _problems(self) -> Iterator[Finding]:
        for problem in self.configuration.problems:
            name, _, rest = problem.partition(": ")
            yield Finding(
                "settings", FAILURE, f"{problem}; the default is used", f"correct or unset {name}" if rest else ""
            )
        changed = {
            name: setting for name, setting in self._settings.items() if setting.source not in ("default", "argument")
        }
        told = ", ".join(f"{setting.source}={_shown(name, setting.value)}" for name, setting in changed.items())
        yield Finding("settings", OK, told or "all are defaults")

    def _home_folder(self) -> Iterator[Finding]:
        durability = self.configuration.durability
        if durability == "memory":
            yield Finding("journal", WARNING, "is off (durability=memory): a crash or an outage at exit loses records")
            return
        folder = Path(self._home)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            probe = folder / f"doctor-{os.getpid()}"
            probe.write_bytes(b"x" * 4096)
            probe.unlink()
        except OSError as error:
            fix = "set AGENT_SDK_HOME to a folder that this user may write to"
            yield Finding("journal", FAILURE, f"{folder} cannot be written to ({error.strerror})", fix)
            return
        room = shutil.disk_usage(folder).free
        if room < _LITTLE_ROOM:
            yield Finding(
                "journal", WARNING, f"{folder} has only {_bytes(room)} left", "make room, or set AGENT_SDK_HOME"
            )
        elif folder.stat().st_mode & 0o077:
            fix = f"chmod 700 {folder}"
            yield Finding("journal", WARNING, f"{folder} can be read by others; journals inside are private", fix)
        else:
            yield Finding("journal", OK, f"{folder} can be written to, {_bytes(room)} free")

    def _api_key(self) -> Iterator[Finding]:
        key, source = self._key, self._settings["api_key"].source
        if key is None:
            if self._is_local:
                text = f"{self._home} holds no key of a collector at {self._url}"
                yield Finding("key", WARNING, text, "start `agent-sdk serve` as this user: it writes one")
            else:
                yield Finding("key", FAILURE, f"there is no key for {_place(self._url)}", "set AGENT_SDK_API_KEY")
            return
        where = f"from {source}" if source != "default" else "the local collector's own"
        shape = f"{len(key)} characters, {where}"
        if key[:1] in "\"'" or key[-1:] in "\"'":
            yield Finding(
                "key", FAILURE, f"{shape}: it begins or ends with a quote", "remove the quotes around the key"
            )
        elif not (key.isascii() and key.isprintable()):
            yield Finding("key", FAILURE, f"{shape}: it holds characters that no key has", "copy the key again")
        else:
            yield Finding("key", OK, shape)

    # -- the network ---------------------------------------------------------------------------------------------

    def _proxy(self) -> Iterator[Finding]:
        proxies = {} if self._is_local else requests.utils.get_environ_proxies(self._url)
        proxy = proxies.get(urlsplit(self._url).scheme) or proxies.get("all")
        if proxy:
            yield Finding("proxy", OK, f"{_place(proxy)} (from the environment; NO_PROXY excludes hosts)")

    def _name(self) -> Iterator[Finding]:
        host = urlsplit(self._url).hostname or ""
        try:
            addresses = sorted({str(found[4][0]) for found in socket.getaddrinfo(host, None)})
            yield Finding("name", OK, f"{host} is {', '.join(addresses[:4])}")
        except OSError as error:
            fix = "check the spelling in AGENT_SDK_BASE_URL, and this machine's DNS"
            if requests.utils.get_environ_proxies(self._url):
                yield Finding("name", WARNING, f"{host} is not known here; the proxy may know it")
            else:
                yield Finding("name", FAILURE, f"{host} cannot be found ({error.strerror or error})", fix)

    def _collector(self) -> Iterator[Finding]:
        if urlsplit(self._url).scheme == "http" and not self._is_local:
            yield Finding(
                "address", WARNING, f"{_place(self._url)} is not encrypted: key and records can be read on the way"
            )
        try:
            proxies = {"http": "", "https": ""} if self._is_local else None
            answer = requests.get(
                self._url + "/health",
                timeout=5,
                proxies=proxies,
                allow_redirects=False,
                headers={"User-Agent": USER_AGENT},
            )
            self._health = answer
        except requests.RequestException:
            return  # the delivery below fails in the same way, and explains it
        try:
            known = answer.json()
        except ValueError:
            known = None
        if isinstance(known, dict) and known.get("service") == "agent-sdk-collector":
            yield Finding("collector", OK, f"agent-sdk {known.get('version')} answers at {_place(self._url)}")
        elif answer.is_redirect:
            fix = f"set AGENT_SDK_BASE_URL to where it leads: {_place(answer.headers['Location'])}"
            yield Finding("collector", FAILURE, f"{_place(self._url)} sends requests elsewhere", fix)
        else:
            fix = "check host, port and path in AGENT_SDK_BASE_URL"
            text = f"something else than a collector answers at {_place(self._url)} (/health: {answer.status_code})"
            yield Finding("collector", WARNING, text, fix)

    def _clock(self) -> Iterator[Finding]:
        try:
            skew = time.time() - parsedate_to_datetime(self._health.headers["Date"]).timestamp()
        except Exception:  # there was no answer, or none with a date
            return
        if abs(skew) > _MOST_SKEW:
            way = "ahead of" if skew > 0 else "behind"
            text = f"this machine is {abs(skew):.0f} s {way} the collector: runs appear at the wrong time"
            yield Finding("clock", WARNING, text, "synchronise the clock (NTP)")
        else:
            yield Finding("clock", OK, "agrees with the collector's")

    # -- the whole way -------------------------------------------------------------------------------------------

    def _delivery(self) -> Iterator[Finding]:
        lines, run_id = _test_run()
        destination = open_destination(self._url, lambda: self._key, 5.0)
        outcome = destination.deliver(lines, time.monotonic() + _PATIENCE)
        destination.close()
        if outcome.kind != DELIVERED:
            cause, _, fix = outcome.reason.partition(": ")
            if outcome.kind == UNAUTHORIZED and self._settings["api_key"].source != "default":
                fix = fix or "check AGENT_SDK_API_KEY"
            yield Finding("delivery", FAILURE, cause, fix)
        elif outcome.rejected:
            yield Finding(
                "delivery", FAILURE, f"the test run was rejected: {outcome.rejected[0].reason}", "upgrade the collector"
            )
        else:
            yield Finding("delivery", OK, f"the test run {run_id} was taken")
            if self._is_http:
                yield self._read_back(run_id)

    def _read_back(self, run_id: str) -> Finding:
        try:
            proxies = {"http": "", "https": ""} if self._is_local else None
            address = f"{self._url}/api/v1/runs/{run_id}"
            answer = requests.get(address, timeout=5, proxies=proxies, headers={"User-Agent": USER_AGENT})
            if answer.status_code == 200 and answer.json().get("status") == "completed":
                return Finding("viewer", OK, f"shows it: {self._url}/runs/{run_id}")
            text = f"the test run cannot be read back (status {answer.status_code})"
        except (requests.RequestException, ValueError, AttributeError) as error:
            text = f"the test run cannot be read back ({type(error).__name__})"
        return Finding("viewer", WARNING, text, "look for it in the viewer of that collector")

    def _backlog(self) -> Iterator[Finding]:
        folders = journals.journal_folders(self._home)
        size = sum(map(journals.folder_size, folders))
        if folders:
            now = time.time()
            oldest = min((Path(folder).stat().st_mtime for folder in folders if Path(folder).exists()), default=now)
            text = f"{len(folders)} journals of {_bytes(size)} wait or are in use, the oldest for {_age(now - oldest)}"
            yield Finding("backlog", OK if size < 1 << 20 else WARNING, text, "deliver them with `agent-sdk push`")
        else:
            yield Finding("backlog", OK, "nothing waits")
        refused = Path(self._home) / "quarantine"
        if refused.is_dir() and any(refused.iterdir()):
            yield Finding("quarantine", WARNING, "records were refused", f"read why in {refused}")

    def _speed(self) -> Iterator[Finding]:
        if importlib.util.find_spec("orjson") is None:
            yield Finding("speed", OK, "JSON by the standard library; `pip install 'agent-sdk[fast]'` halves the work")


def _test_run() -> tuple[list[bytes], str]:
    """The records of a small run, made by a tracker as any program's are, and its id."""
    name = f"memory://doctor-{os.getpid()}-{time.monotonic_ns()}"
    tracker = create_tracker(base_url=name, durability="memory", disabled=False, strict=False)
    with tracker.track_run("agent-sdk doctor", tags=["doctor"]) as run:
        tracker.track_step("test step", "other", output_data="seen")
    tracker.close()
    lines: list[bytes] = open_destination(name, lambda: None).lines  # type: ignore[attr-defined]
    return [line for line in lines if b'"heartbeat"' not in line[:40]], str(run)


def examine(as_json: bool) -> int:
    """Print what is found; returns 1 if something fails."""
    console = Console(highlight=False)
    doctor = Doctor(os.environ)
    found = []
    for finding in doctor.findings():
        found.append(finding)
        if not as_json:
            console.print(
                f"{_SHAPES[finding.state]} [bold]{finding.check:<10}[/bold] {escape(finding.text)}", soft_wrap=True
            )
            if finding.fix and finding.state != OK:
                console.print(f"  {'':<10} → {escape(finding.fix)}", soft_wrap=True)
    failures = sum(finding.state == FAILURE for finding in found)
    if as_json:
        print(json.dumps([finding._asdict() for finding in found]))
    elif failures:
        console.print(f"\n{failures} of {len(found)} checks failed; what is recorded meanwhile is kept on the disk.")
    else:
        console.print("\nEverything that is recorded here arrives.")
    return 1 if failures else 0


def _shown(name: str, value: Any) -> str:
    if name == "api_key":
        return f"[{len(value or '')} characters]"
    return _place(str(value)) if name == "base_url" else str(value)


def _place(url: str) -> str:
    """A URL without what may be secret in it."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"
    except ValueError:
        return "an address that is none"


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.0f} TB"


def _age(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"
