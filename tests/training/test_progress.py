from __future__ import annotations

import pytest

from ornstein.training.progress import Pace, Progress


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def run(pace: Pace, clock: Clock, first: int, last: int, seconds: float) -> None:
    for step in range(first, last + 1):
        clock.now += seconds
        pace.tick(step)


def test_slow_first_steps_do_not_count() -> None:
    clock = Clock()
    pace = Pace(0, batch=4, clock=clock)
    run(pace, clock, 1, 10, 5.0)
    assert pace.remaining(100) is None
    assert pace.items_per_second() is None
    run(pace, clock, 11, 20, 0.5)
    assert pace.items_per_second() == pytest.approx(8.0)
    left, basis = pace.remaining(100)
    assert left == pytest.approx(40.0)
    assert basis == "from 10 steps in 5 s, pauses included"


def test_pauses_count_for_the_estimate_but_not_for_the_speed() -> None:
    clock = Clock()
    pace = Pace(0, batch=1, clock=clock)
    run(pace, clock, 1, 20, 1.0)
    with pace.pause():
        clock.now += 10.0
    assert pace.items_per_second() == pytest.approx(1.0)
    assert pace.remaining(40)[0] == pytest.approx(20 * 20.0 / 10)
    assert pace.elapsed() == 30.0


def test_a_resumed_run_is_timed_from_where_it_went_on() -> None:
    clock = Clock()
    pace = Pace(1000, batch=1, clock=clock)
    run(pace, clock, 1001, 1030, 1.0)
    assert pace.remaining(1100)[0] == pytest.approx(70.0)


def test_without_a_terminal_it_prints_lines(capsys) -> None:
    clock = Clock()
    pace = Pace(0, batch=1, clock=clock)
    with Progress(True, 5000, pace) as bar:
        run(pace, clock, 1, 20, 1.0)
        bar.update(20)
        bar.report({"step": 20, "loss": 0.25}, 1234.5)
    assert capsys.readouterr().err == (
        "step 20/5000  loss 0.25  1,234 items/s  1 h 23 min left (from 10 steps in 10 s, pauses included)\n"
    )


def test_at_the_end_it_says_how_long_it_took(capsys) -> None:
    clock = Clock()
    pace = Pace(0, batch=1, clock=clock)
    with Progress(True, 90, pace) as bar:
        run(pace, clock, 1, 90, 1.0)
        bar.report({"step": 90, "loss": 1.0}, None)
    assert capsys.readouterr().err == "step 90/90  loss 1  done in 1 min 30 s\n"


def test_it_can_be_silent(capsys) -> None:
    with Progress(False, 10, Pace(0, 1)) as bar:
        bar.update(10)
        bar.report({"step": 10, "loss": 1.0}, None)
    assert capsys.readouterr() == ("", "")
