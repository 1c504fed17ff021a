"""Never lies: what was recorded was delivered, or somebody says why not."""

from __future__ import annotations

import pytest

from tests.promises.soak import Soak

pytest.importorskip("starlette", reason="the soak needs the collector: pip install 'agent-sdk[server,cli]'")


@pytest.mark.slow
def test_after_kills_and_faults_the_books_balance_to_the_last_record():
    report = Soak(minutes=0.25, rate=600, seed=7, quiet=True, pause=0.5).run()
    assert report["problems"] == []
    assert report["steps recorded"] > 4000
    assert report["steps missing"] <= sum(report["records told as lost"].values())
    assert report["killed"]["workers"] >= 1
    assert report["killed"]["collectors"] >= 1
