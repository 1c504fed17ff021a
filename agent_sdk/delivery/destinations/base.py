"""The seam between the sender and the outside: what a destination is and what it can answer.

A destination takes one batch at a time from one sender thread. It never raises and never retries: it says what
happened, and the sender decides.
"""

from __future__ import annotations

from typing import NamedTuple, Sequence

DELIVERED = "delivered"
RETRY = "retry"
TOO_LARGE = "too large"
REFUSED = "refused"
UNAUTHORIZED = "unauthorized"


class BatchLimits(NamedTuple):
    """How much a destination takes at once. A destination may tell its own in an answer."""

    max_batch_bytes: int = 4 * 1024 * 1024
    max_batch_records: int = 5_000
    max_record_bytes: int = 4 * 1024 * 1024


class Rejection(NamedTuple):
    """One record of a delivered batch that the destination will never take."""

    line: int  # counts the batch's lines from 0
    reason: str


class Outcome(NamedTuple):
    """What became of a batch.

    ``kind`` is one of

    - ``DELIVERED``: everything was taken but the records in ``rejected``;
    - ``RETRY``: nothing is known to be taken, the same batch may be sent again, not before ``retry_after`` seconds
      where that is given;
    - ``TOO_LARGE``: send less at once;
    - ``REFUSED``: the batch as a whole will never be taken; at least one of its records is the reason;
    - ``UNAUTHORIZED``: no batch will be taken with these credentials.

    ``reason`` is one line for a person: the cause and, where there is one, the fix. It holds no secret.
    """

    kind: str
    reason: str = ""
    rejected: tuple[Rejection, ...] = ()
    retry_after: float | None = None
    limits: BatchLimits | None = None


class Destination:
    """Where batches go. Subclasses override all three methods."""

    limits: BatchLimits = BatchLimits()

    def deliver(self, lines: Sequence[bytes], deadline: float) -> Outcome:
        """Deliver whole NDJSON records, one a line with its line end, before ``deadline`` (``time.monotonic()``)."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Import what ``deliver`` needs; called before it, in the sender's thread."""

    def abort(self) -> None:
        """Make a ``deliver`` that another thread is in return soon; callable from any thread at any time."""

    def close(self) -> None:
        """Give back connections and files; a later ``deliver`` opens them again."""
