"""What is said of a target that can't be run. Processes with it: tests/fault/service."""

from __future__ import annotations

import pytest

from eventflow.cli._target import TargetError, find


@pytest.mark.parametrize(
    ("given", "form"),
    [
        ("job", "job:NAME"),
        ("job:", "job:NAME"),
        ("shop.jobs", "shop.jobs:NAME"),
        ("job.py", "job:NAME"),
        ("jobs/nightly.py", "jobs.nightly:NAME"),
        ("./job.py", "pkg.mod:service"),
        ("../job.py", "pkg.mod:service"),
        (".job:x", "pkg.mod:service"),
        (":x", "pkg.mod:service"),
        ("", "pkg.mod:service"),
        ("my-job", "pkg.mod:service"),
    ],
)
def test_a_target_without_a_name_is_told_what_to_write(given: str, form: str) -> None:
    """With the module that was given, where it is one, or a file of it."""
    with pytest.raises(TargetError) as caught:
        find(given)
    assert f"{given!r} does not name a target; write {form}" in str(caught.value)
