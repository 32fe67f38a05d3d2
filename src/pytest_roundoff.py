"""The pytest plugin: the fixture ``assert_same``, and the story of a comparison instead of a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator

import pytest

# roundoff, and PyTorch with it, is imported only where it is used: pytest loads this file in every run.


@pytest.fixture
def assert_same() -> Callable[..., None]:
    """:func:`roundoff.assert_same`: fails unless two networks are the same function up to round-off."""
    import roundoff

    return roundoff.assert_same


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show a NotSame as its message and the line of the test, unless a traceback style was asked for."""
    report = yield
    errors = sys.modules.get("roundoff.errors")
    asked = item.config.getoption("tbstyle", "auto") != "auto"
    if call.excinfo is None or errors is None or asked or not isinstance(call.excinfo.value, errors.NotSame):
        return report
    story = call.excinfo.getrepr(style="value")
    for entry in call.excinfo.traceback:
        if entry.path == item.path:
            story.addsection("compared at", f"{item.path}:{entry.lineno + 1}")
            break
    report.longrepr = story
    return report
