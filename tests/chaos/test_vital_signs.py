"""The arithmetic of the soak: a slope is that of the line, and what grows without an end is seen."""

import random
from dataclasses import replace

import numpy as np
import pytest

from tests.chaos.vital_signs import (
    GROWTH_MAX,
    SECONDS_PER_HOUR,
    Signs,
    growth_problems,
    second_half,
    slope,
)

SIGNS = Signs(
    at_seconds=0.0,
    rss_bytes=0,
    pss_bytes=0,
    rocksdb_bytes=0,
    handles=50,
    threads=20,
    disk_bytes=0,
    sessions=0,
)


def course(handles: list[int]) -> list[Signs]:
    return [
        replace(SIGNS, at_seconds=float(number), handles=count)
        for number, count in enumerate(handles)
    ]


def test_a_line_without_noise_has_its_slope_and_no_error() -> None:
    found = slope([0, 10, 30, 50], [1, 21, 61, 101])
    assert found.per_hour == pytest.approx(2 * SECONDS_PER_HOUR)
    assert found.error == pytest.approx(0, abs=1e-6)


def test_slope_and_error_are_those_of_numpy() -> None:
    rng = random.Random(0)
    seconds = sorted(rng.uniform(0, 1800) for _ in range(200))
    values = [3e8 + 1e4 * s + rng.gauss(0, 1e6) for s in seconds]
    (expected, _), covariance = np.polyfit(seconds, values, 1, cov=True)
    found = slope(seconds, values)
    assert found.per_hour == pytest.approx(expected * SECONDS_PER_HOUR)
    assert found.error == pytest.approx(np.sqrt(covariance[0, 0]) * SECONDS_PER_HOUR)


def test_two_points_have_no_error() -> None:
    with pytest.raises(ValueError, match="three points"):
        slope([0, 1], [0, 1])


def test_the_second_half_is_that_of_the_time() -> None:
    signs = [replace(SIGNS, at_seconds=at) for at in (0, 1, 2, 9, 10)]
    assert [s.at_seconds for s in second_half(signs)] == [9, 10]


def test_handles_that_grow_without_an_end_are_seen() -> None:
    assert growth_problems(course([50 + 2 * number for number in range(40)])) != []


def test_handles_that_come_and_go_do_not_grow() -> None:
    assert growth_problems(course([50 + 40 * (number % 3) for number in range(40)])) == []


def test_handles_may_grow_by_a_few() -> None:
    assert growth_problems(course([50] * 20 + [50 + GROWTH_MAX] * 20)) == []
