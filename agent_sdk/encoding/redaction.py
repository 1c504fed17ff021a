"""Secrets out of records: the last stage before bytes touch a disk or a socket, over the whole record.

Most records hold no secret, so the first look is for hints of one in the batch as a whole; only records with a hint are
parsed and rewritten.
"""

from __future__ import annotations

import re
from typing import Any, Callable, Sequence

from agent_sdk.encoding.json_codec import dumps, loads
from agent_sdk.encoding.masking import Mask

REDACTED = "[redacted]"
WITHHELD = "[withheld: masking failed]"

#: A key whose last word is one of these holds a secret (compared in lower case, without ``_``, ``-`` and blanks).
SECRET_KEYS = (
    "password",
    "passwd",
    "passphrase",
    "pwd",
    "secret",
    "apikey",
    "accesskey",
    "secretkey",
    "privatekey",
    "signingkey",
    "encryptionkey",
    "agentscopekey",
    "authorization",
    "cookie",
    "token",
    "credential",
    "credentials",
)

_ASSIGNMENT = (
    r"(?i)((?:password|passwd|passphrase|pwd|secret|api[_ -]?key|access[_-]?key|private[_-]?key|secret[_-]?key|"
    r"signing[_-]?key|encryption[_-]?key|agentscope[_-]?key|token|authorization|cookie|credentials?)"
    r"\\{0,16}[\"']?\s*[=:]\s*\\{0,16}[\"']?)(?!\[redacted\])([^\s\"'\\&,;{}\[\]]{3,})"
)

#: What a secret looks like wherever it stands, with what is left of it. Each takes linear time on any text.
SECRET_VALUES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.DOTALL | re.ASCII), replacement)
    for pattern, replacement in (
        (r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,40}PRIVATE KEY-----|\Z)", REDACTED),
        (r"\beyJ[\w-]{8,500}\.[\w-]{8,}(?:\.[\w-]*)?", REDACTED),
        (r"\b(?:sk|rk|pk|ask|gsk)[-_][A-Za-z0-9_-]{16,}", REDACTED),  # not "risk-based"
        (r"(?:xai|hf|npm|glpat|sess)[-_][A-Za-z0-9_-]{16,}", REDACTED),
        (r"gh[pousr]_[A-Za-z0-9]{20,}", REDACTED),
        (r"github_pat_\w{20,}", REDACTED),
        (r"(?:AKIA|ASIA)[0-9A-Z]{16}", REDACTED),
        (r"AIza[\w-]{30,}", REDACTED),
        (r"xox[abeoprs]-[A-Za-z0-9-]{10,}", REDACTED),
        (r"SG\.[\w-]{16,}\.[\w-]{16,}", REDACTED),
        (r"(?i)\b(bearer)\s+[\w.~+/=-]{8,}", r"\1 " + REDACTED),
        # Base64, as opposed to "basic understanding".
        (r"\b([Bb]asic|BASIC)\s+(?=\S[a-z]{0,100}[A-Z0-9+/=])[A-Za-z0-9+/=_-]{8,}", r"\1 " + REDACTED),
        (r"(://[^/\s:@\"']{0,256}):[^/\s@\"']{1,1024}@", r"\1:" + REDACTED + "@"),
        (_ASSIGNMENT, r"\1" + REDACTED),
    )
)

#: A record's line without any of these matches none of the rules above. Each is looked for from its rarest letter on,
#: which costs a tenth of looking for the whole word: regular expressions that begin with one literal run on ``memchr``.
_HINTS_IN_ANY_CASE = tuple(
    re.compile(pattern)
    for pattern in (
        rb"k(?:ey(?![a-z])(?<=[isteng_ -]key)|en(?![is])|ie)",  # api key, token, cookie
        rb"w(?:d|ord)(?<!keyword)",  # pwd, passwd, password
        rb"z(?<=authoriz)",
        rb"b(?:earer|asic)\s",
    )
)
_WORDS_IN_ANY_CASE = (b"secret", b"passphrase", b"credential")
_HINTS = tuple(
    re.compile(pattern)
    for pattern in (
        rb"-(?:(?<=[srp]k-)|(?<=xai-)|(?<=hf-)|(?<=npm-)|(?<=glpat-)|(?<=sess-)|(?<=xox[abeoprs]-))[A-Za-z0-9_-]{9,}",
        rb"_(?:(?<=[srp]k_)|(?<=xai_)|(?<=hf_)|(?<=npm_)|(?<=glpat_)|(?<=sess_)|(?<=gh[pousr]_)|(?<=_pat_))\w[\w-]{15,}",
        rb"J(?<=eyJ)",
        rb"A(?:KIA|SIA|Iza)",
        rb"G(?<=SG)\.",
        rb"@(?<=[^\s]@)",
    )
)

#: Fields that the recorder itself has made; nobody's text is in them.
_OWN_FIELDS = frozenset(
    ("type", "id", "time", "run_id", "step_id", "parent_step_id", "parent_run_id", "started_at", "first_token_at")
)
_LONGEST_SECRET_KEY = 40  # with any signs between its words
_NOT_SECRET = (None, True, False, "", REDACTED, WITHHELD)


class Redactor:
    """Takes secrets out of records. ``mask(field, value)`` of the user is asked first, then the built-in rules apply.

    ``mask`` runs in the writer's thread, with the name of a field (``input``, ``output``, ``error``, ``metadata``,
    ``name``, ``tags``, …) and its value as JSON would give it back, and returns what to record in its place. Where it
    raises, takes more than a second or returns something that JSON cannot hold, the field is withheld.
    """

    def __init__(self, mask: Callable[[str, Any], Any] | None = None, builtin: bool = True) -> None:
        self._mask = Mask(mask) if mask is not None else None
        self._builtin = builtin
        #: How many fields were withheld.
        self.failures = 0

    def redact(self, lines: Sequence[bytes]) -> list[bytes]:
        """The same records without secrets, one a line. Never raises: a record that cannot be read is emptied."""
        if self._mask is None and not self._builtin:
            return list(lines)
        if self._mask is None and not _has_hint(b"".join(lines)):
            return list(lines)
        return [self._line(line) for line in lines]

    def _line(self, line: bytes) -> bytes:
        if self._mask is None and not _has_hint(line):
            return line
        try:
            record = loads(line)
            for field in record:
                if field not in _OWN_FIELDS:
                    record[field] = self._field(field, record[field])
            return dumps(record) + b"\n"
        except Exception:
            self.failures += 1
            return _skeleton(line)

    def _field(self, field: str, value: Any) -> Any:
        try:
            if self._mask is not None:
                value = self._mask(field, value)
            return _without_secrets(value) if self._builtin else value
        except Exception:
            self.failures += 1
            return WITHHELD


def _has_hint(text: bytes) -> bool:
    lower = text.lower()
    return (
        any(pattern.search(text) for pattern in _HINTS)
        or any(word in lower for word in _WORDS_IN_ANY_CASE)
        or any(pattern.search(lower) for pattern in _HINTS_IN_ANY_CASE)
    )


def _skeleton(line: bytes) -> bytes:
    """What may be kept of a record that could not be redacted: what the recorder itself has made."""
    try:
        record = loads(line)
        return dumps({field: record[field] for field in _OWN_FIELDS if field in record}) + b"\n"
    except Exception:
        return b"{}\n"


def _without_secrets(value: Any) -> Any:
    """The same value with secrets replaced; containers are changed in place, without recursion."""
    holder = [value]
    pending: list[Any] = [holder]
    while pending:
        container = pending.pop()
        pairs = list(container.items()) if type(container) is dict else list(enumerate(container))
        for key, item in pairs:
            if type(key) is str and _is_secret_key(key) and item not in _NOT_SECRET:
                container[key] = REDACTED
            elif type(item) is str:
                container[key] = _clean(item)
            elif type(item) in (dict, list):
                pending.append(item)
        if type(container) is dict:
            _clean_keys(container)
    return holder[0]


def _clean_keys(container: dict[str, Any]) -> None:
    for key, clean in [(key, _clean(key)) for key in container]:
        if clean != key:
            container[clean] = container.pop(key)


def _is_secret_key(key: str) -> bool:
    key = key[-_LONGEST_SECRET_KEY:]
    return key.lower().replace("_", "").replace("-", "").replace(" ", "").endswith(SECRET_KEYS)


def _clean(text: str) -> str:
    for pattern, replacement in SECRET_VALUES:
        text = pattern.sub(replacement, text)
    return text
