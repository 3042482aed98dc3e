"""Stopping before every statement of a commit that keeps no versions."""

from __future__ import annotations

import pytest

from ixflow.pipeline import run_stage
from ixflow.store import SQLTableStore
from ixflow_tests.crash.test_stage_kill import chained
from ixflow_tests.crash.test_versions_kill import stopped_at_every_statement
from ixflow_tests.stages import objects, rows


def _shown(store):
    third = next(name for name in objects(store, "staging") if name.startswith("third"))
    found = {
        row["v"] for name in ("first", "second", third) for row in rows(store, "staging", name)
    }
    assert len(found) == 1
    return found.pop()


@pytest.mark.slow
def test_a_commit_is_whole_wherever_it_is_stopped(warehouse_engine):
    store = SQLTableStore(warehouse_engine.url)
    with store.held_open():
        run_stage(chained(1), store)
        seen = []

        def commit():
            run_stage(chained(2), store, transaction_id="t", max_workers=1)

        for _ in stopped_at_every_statement(store, commit):
            shown = _shown(store)
            published = store.published("staging")
            assert shown == published.version
            assert all(published.holds(result) for result in published.results)
            seen.append(shown)
        assert sorted(set(seen)) == [1, 2]
        assert seen == sorted(seen)
        assert _shown(store) == 2
    store.dispose()
