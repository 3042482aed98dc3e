"""Any order of taking and letting go: a lock has one holder, and the others know it."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ixflow import BaseLockManager, LockState
from ixflow.errors import LockError, LockNotAvailable
from ixflow_tests.behaviour.test_lock_managers import KINDS, Place

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["acquire", "release", "release_all", "dispose"]),
        st.integers(0, 2),
        st.sampled_from(["a", "b"]),
    ),
    max_size=25,
)


def do(manager: BaseLockManager, what: str, name: str) -> type[Exception] | None:
    """Do a step, and say how it failed."""
    try:
        if what in ("acquire", "release"):
            getattr(manager, what)(name)
        else:
            getattr(manager, what)()
    except (LockError, LockNotAvailable) as error:
        return type(error)
    return None


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "zookeeper"])
@settings(max_examples=25)
@given(steps=STEPS)
def test_a_lock_has_one_holder(request, tmp_path, kind: str, steps):
    target = str(tmp_path)
    if kind == "database":
        url = request.getfixturevalue("fresh_postgres").url
        target = url.render_as_string(hide_password=False)
    holders: dict[str, int] = {}
    with contextlib.ExitStack() as stack:
        managers = [Place(kind, target).manager(lock_timeout=0) for _ in range(3)]
        for manager in managers:
            stack.callback(manager.dispose)
        for what, number, name in steps:
            failed = do(managers[number], what, name)
            if what == "acquire":
                assert failed is (LockNotAvailable if name in holders else None)
                holders.setdefault(name, number)
            elif what == "release":
                assert failed is (None if holders.get(name) == number else LockError)
                if failed is None:
                    del holders[name]
            else:
                holders = {key: who for key, who in holders.items() if who != number}
            for who, manager in enumerate(managers):
                for key in ("a", "b"):
                    held = manager.get_lock_state(key) is LockState.LOCKED
                    assert held == (holders.get(key) == who)
