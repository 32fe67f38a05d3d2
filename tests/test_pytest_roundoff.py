"""The plugin, run as a user's pytest would: each in its own process, for PyTorch cannot be imported twice."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]


@pytest.fixture
def failing(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile(
        test_net="""
        from roundoff.errors import NotSame

        def inner():
            raise NotSame("different: d is 0.5\\nthe second line of the story")

        def test_two():
            inner()
        """
    )
    return pytester


def test_a_failure_shows_the_story_and_its_line_and_no_traceback(failing: pytest.Pytester) -> None:
    result = failing.runpytest_subprocess()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["different: d is 0.5", "the second line of the story", "*compared at*", "*test_net.py:7"]
    )
    result.stdout.no_fnmatch_line("*raise NotSame*")
    result.stdout.fnmatch_lines(["FAILED test_net.py::test_two - *NotSame: different: d is 0.5"])


def test_a_traceback_style_that_was_asked_for_is_kept(failing: pytest.Pytester) -> None:
    result = failing.runpytest_subprocess("--tb=short")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*raise NotSame*"])


def test_other_failures_are_left_alone(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import roundoff.errors

        def test_plain():
            assert 1 == 2
        """
    )
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([">*assert 1 == 2"])
    result.stdout.no_fnmatch_line("*compared at*")


def test_the_fixture_is_assert_same(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest, roundoff, torch

        def test_same(assert_same):
            layer = torch.nn.Linear(3, 2)
            assert_same(layer, layer, torch.ones(1, 3))

        def test_not_same(assert_same):
            layer = torch.nn.Linear(3, 2)
            with pytest.raises(roundoff.NotSame):
                assert_same(layer, lambda x: layer(x) + 1, torch.ones(1, 3))
        """
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=2)


def test_the_plugin_does_not_import_torch(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_light():
            assert "torch" not in sys.modules
        """
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=1)
