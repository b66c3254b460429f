"""The protocol against a clock that moves only when a call says so."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from device_profiles.errors import BadInput
from device_profiles.measurement import GpuSamples
from runtimes.timing import Clocks, Effort, GpuRun, clock_for, half_widths_percent, interruptions, measure


@dataclass
class Machine:
    """A machine of which tests know what everything takes; CPU time runs at half of the wall clock."""

    now_ns: int = 0
    switches: int = 0
    log: list[str] = field(default_factory=list)

    def call(self, name: str, milliseconds: Callable[[], float]) -> Callable[[], None]:
        def run() -> None:
            self.log.append(name)
            self.now_ns += round(milliseconds() * 1e6)

        return run

    def clocks(self) -> Clocks:
        return Clocks(lambda: self.now_ns, lambda: self.now_ns // 2, lambda: self.switches)


def steady(machine: Machine, **milliseconds: float) -> dict[str, Callable[[], None]]:
    return {name: machine.call(name, lambda ms=ms: ms) for name, ms in milliseconds.items()}  # type: ignore[misc]


def test_both_clocks_are_read_around_each_timed_call() -> None:
    machine = Machine()
    result = measure(steady(machine, a=2.0, b=4.0), clock="wall", clocks=machine.clocks())
    assert (result["a"].ms, result["b"].ms) == (2.0, 4.0)
    assert result["a"].cpu_ms == (1.0,) * result["a"].n
    assert (result["a"].clock, result["a"].stable) == ("wall", True)
    machine = Machine()
    assert measure(steady(machine, a=2.0), clock="cpu", clocks=machine.clocks())["a"].ms == 1.0


def test_every_round_runs_each_call_once_untimed_and_once_timed() -> None:
    machine = Machine()
    effort = Effort(min_rounds=6, max_rounds=6)
    result = measure(steady(machine, a=1.0, b=1.0, c=1.0), clock="wall", effort=effort, clocks=machine.clocks())
    rounds = [machine.log[i : i + 6] for i in range(0, 36, 6)]
    assert len(machine.log) == 36
    assert all(sorted(each) == list("aabbcc") and each[::2] == each[1::2] for each in rounds)
    assert {result[name].n for name in "abc"} == {6}


def test_a_group_runs_in_turn_untimed_and_then_timed() -> None:
    machine = Machine()
    calls = steady(machine, a=1.0, b=1.0, c=1.0, d=1.0)
    effort = Effort(min_rounds=8, max_rounds=8)
    measure(calls, clock="wall", groups=["abc", "d"], effort=effort, clocks=machine.clocks())
    for i in range(0, 64, 8):
        together = "".join(machine.log[i : i + 8]).replace("dd", "")
        assert sorted(together[:3]) == sorted(together[3:]) == list("abc")


def test_the_order_is_random_and_the_seed_repeats_it() -> None:
    def order(seed: int) -> list[str]:
        machine = Machine()
        calls = steady(machine, a=1.0, b=1.0, c=1.0)
        measure(calls, clock="wall", effort=Effort(min_rounds=8, max_rounds=8, seed=seed), clocks=machine.clocks())
        return machine.log

    assert order(1) == order(1) != order(2)
    assert len({"".join(order(1)[i : i + 6]) for i in range(0, 48, 6)}) > 1


def test_it_stops_as_soon_as_every_headline_is_known() -> None:
    machine = Machine()
    result = measure(steady(machine, a=1.0), clock="wall", effort=Effort(min_rounds=5), clocks=machine.clocks())
    assert result["a"].n == 8  # the first look after five rounds


def test_noise_makes_it_go_on_until_the_budget_ends_and_is_admitted() -> None:
    machine, generator = Machine(), np.random.default_rng(0)
    calls = {"noisy": machine.call("noisy", lambda: generator.uniform(5, 15))} | steady(machine, calm=10.0)
    result = measure(calls, clock="wall", effort=Effort(budget_s=0.8), clocks=machine.clocks())
    assert (result["noisy"].stable, result["calm"].stable) == (False, True)
    assert 15 <= result["calm"].n == result["noisy"].n <= 25  # rounds of about 40 ms


def test_no_budget_still_gives_the_least_number_of_rounds() -> None:
    machine = Machine()
    effort = Effort(budget_s=0.0, min_rounds=3)
    assert measure(steady(machine, a=1.0), clock="wall", effort=effort, clocks=machine.clocks())["a"].n == 3


def test_rounds_that_something_slowed_down_do_not_move_the_headline() -> None:
    machine, generator = Machine(), np.random.default_rng(0)

    def call(base: float) -> Callable[[], float]:
        def milliseconds() -> float:
            late = generator.uniform() < 0.3  # another process takes the core for a while
            machine.switches += late
            return base * generator.uniform(1, 1.01) + (generator.uniform(2, 20) if late else 0)

        return milliseconds

    calls = {name: machine.call(name, call(ms)) for name, ms in (("a", 10.0), ("b", 20.0))}
    result = measure(calls, clock="wall", effort=Effort(budget_s=10), clocks=machine.clocks())
    assert result["b"].ms / result["a"].ms == pytest.approx(2.0, rel=0.01)
    assert result["a"].median_ms < 1.02 * result["a"].ms
    assert sum(result["a"].interruptions) > 0


def slow_between(machine: Machine, first: int, last: int, calls: int = 4) -> dict[str, Callable[[], None]]:
    """Calls of 10 ms each that take 15 ms in some rounds, counted from 0; every round runs each of them twice."""

    def milliseconds() -> float:
        return 15.0 if first <= (len(machine.log) - 1) // (2 * calls) <= last else 10.0

    return {name: machine.call(name, milliseconds) for name in "abcdefgh"[:calls]}


def test_rounds_in_which_the_whole_machine_was_slow_are_discarded_and_repeated() -> None:
    machine = Machine()
    effort = Effort(min_rounds=8, max_rounds=8, budget_s=0)
    result = measure(slow_between(machine, 2, 5), clock="wall", effort=effort, clocks=machine.clocks())
    for measurement in result.values():
        assert measurement.wall_ms == (10.0,) * 8
        assert measurement.discarded == 4
        assert measurement.stable
    assert len(machine.log) == 12 * 8


def test_a_machine_that_becomes_fast_late_leaves_its_slow_rounds_behind() -> None:
    machine = Machine()
    effort = Effort(min_rounds=8, max_rounds=8)
    result = measure(slow_between(machine, 0, 4), clock="wall", effort=effort, clocks=machine.clocks())
    assert (result["a"].wall_ms, result["a"].discarded) == ((10.0,) * 8, 5)


def test_rounds_are_repeated_up_to_a_limit_and_what_is_left_is_not_called_stable() -> None:
    machine = Machine()
    effort = Effort(min_rounds=8, max_rounds=8, budget_s=0)
    result = measure(slow_between(machine, 4, 999), clock="wall", effort=effort, clocks=machine.clocks())
    assert len(machine.log) == 2 * 8 * 8
    assert (result["a"].n, result["a"].discarded, result["a"].stable) == (4, 12, False)
    assert result["a"].ms == 10.0


def test_a_few_calls_do_not_tell_what_is_slow() -> None:
    machine = Machine()
    effort = Effort(min_rounds=8, max_rounds=8)
    calls = slow_between(machine, 2, 5, calls=3)
    assert {m.discarded for m in measure(calls, clock="wall", effort=effort, clocks=machine.clocks()).values()} == {0}
    machine = Machine()
    alone = slow_between(machine, 2, 5) | {name: machine.call(name, lambda: 10.0) for name in "ab"}
    assert {m.discarded for m in measure(alone, clock="wall", effort=effort, clocks=machine.clocks()).values()} == {0}


def test_a_clock_too_coarse_to_see_a_call_is_no_reason_to_fail() -> None:
    machine = Machine()
    result = measure(steady(machine, a=0.0), clock="wall", effort=Effort(max_rounds=8), clocks=machine.clocks())
    assert result["a"].ms == 0.0
    assert result["a"].spread_percent == 0.0


def test_progress_is_told_after_each_round() -> None:
    machine, seen = Machine(), []
    effort = Effort(min_rounds=3, max_rounds=3)
    measure(steady(machine, a=500.0), clock="wall", effort=effort, clocks=machine.clocks(), after_round=seen.append)
    assert seen == [1.0, 2.0, 3.0]


def test_the_interval_narrows_with_the_square_root_of_the_rounds() -> None:
    samples = np.random.default_rng(0).uniform(0.9, 1.1, (40, 400))
    narrow, wide = (half_widths_percent(samples[:, :n]).mean() for n in (400, 25))
    assert wide / narrow == pytest.approx(4, rel=0.3)


def test_real_clocks_move() -> None:
    result = measure({"sum": lambda: sum(range(1000))}, clock="cpu", effort=Effort(max_rounds=5))
    assert result["sum"].wall_ms[0] > 0
    assert interruptions() >= 0


def test_cpu_time_is_the_latency_of_one_thread_on_a_cpu_only() -> None:
    assert (clock_for(1), clock_for(2), clock_for(1, "gpu"), clock_for(1, "cuda")) == ("cpu", "wall", "wall", "gpu")


@pytest.mark.parametrize("groups", [["a"], ["a", "b", "b"], [["a", "x"]], ["ab", "a"]])
def test_groups_must_hold_every_call_once(groups: list[str]) -> None:
    with pytest.raises(BadInput, match=r"groups .* must hold each of the calls \(=\['a', 'b'\]\) once"):
        measure(steady(Machine(), a=1.0, b=1.0), clock="wall", groups=groups)


def test_nothing_to_measure_is_refused() -> None:
    with pytest.raises(BadInput, match=r"calls \(={}\)"):
        measure({}, clock="wall")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget_s": -1.0}, r"budget_s \(=-1.0\)"),
        ({"precision_percent": -1.0}, r"precision_percent \(=-1.0\)"),
        ({"patience_s": -1.0}, r"patience_s \(=-1.0\) must not be negative"),
        ({"min_rounds": 0}, r"min_rounds \(=0\) must be from 1 to max_rounds"),
        ({"min_rounds": 9, "max_rounds": 8}, r"min_rounds \(=9\) must be from 1 to max_rounds \(=8\)"),
    ],
)
def test_an_effort_that_makes_no_sense_is_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Effort(**changes)  # type: ignore[arg-type]


def test_runs_on_a_gpu_are_judged_by_its_own_clock() -> None:
    readings = itertools.count()

    def call() -> GpuRun:
        throttled = ("SwPowerCap",) if next(readings) % 3 == 0 else ()
        return GpuRun(2.0, 0.5, graph=True, clock_mhz=1980, throttled_by=throttled)

    effort = Effort(budget_s=0, min_rounds=5, max_rounds=5)
    measured = measure({"net": call}, clock=clock_for(1, "cuda:0"), effort=effort)["net"]
    assert (measured.clock, measured.ms, measured.n) == ("gpu", 2.0, 5)
    assert measured.gpu == GpuSamples((2.0,) * 5, (0.5,) * 5, True, (1980,) * 5, ("SwPowerCap",))


def test_a_gpu_is_kept_busy_before_anything_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    now, calls = [0], []

    def call() -> GpuRun:
        calls.append(now[0])
        now[0] += 50_000_000
        return GpuRun(50.0, 0.1)

    clocks = Clocks(wall_ns=lambda: now[0], cpu_ns=lambda: 0, interruptions=lambda: 0)
    measure({"net": call}, clock="gpu", effort=Effort(0, min_rounds=1, max_rounds=1), clocks=clocks)
    assert len(calls) == 4 + 2  # 200 ms, then one call untimed and one timed


def test_the_gpus_clock_needs_calls_that_read_it() -> None:
    with pytest.raises(BadInput, match=r"clock \(='gpu'\) is not read by the call 'net'"):
        measure({"net": lambda: None}, clock="gpu", effort=Effort(0, min_rounds=1, max_rounds=1))
