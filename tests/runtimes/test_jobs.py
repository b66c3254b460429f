from __future__ import annotations

import doctest

from runtimes import jobs as module
from runtimes.carve import carve
from runtimes.jobs import Job, grid_widths, plan, sittings
from runtimes.shapes import with_shapes
from tests.runtimes.networks import conv, unet, zoo


def jobs_of(model: object) -> list[Job]:
    return plan(carve(with_shapes(model, {})))  # type: ignore[arg-type]


def test_the_examples_in_the_docstrings_run() -> None:
    assert doctest.testmod(module).failed == 0


def test_every_layer_is_measured_at_full_width_in_the_first_turn() -> None:
    for model in (unet(), zoo()):
        jobs = jobs_of(model)
        first = [job for job in jobs if job.turn == jobs[0].turn]
        layers = [job.subgraph.layer for job in first]
        assert [job.widths for job in first] == [(layer.in_channels, layer.out_channels) for layer in layers]
        assert len(first) == len({job.subgraph.layer.name for job in jobs})


def test_names_are_unique_and_grids_complete() -> None:
    jobs = jobs_of(unet())
    assert len({job.name for job in jobs}) == len(jobs)
    grid = {job.widths for job in jobs if job.subgraph.layer.name == "down.1" and job.axis is None}
    assert grid == {(i, o) for i in (16, 8, 2) for o in (32, 16, 4)}


def test_widths_fit_the_groups() -> None:
    jobs = jobs_of(zoo())
    widths = {name: {j.widths for j in jobs if j.subgraph.layer.name == name} for name in ("depthwise", "grouped")}
    assert widths["depthwise"] == {(16, 16), (8, 8), (2, 2)}
    assert widths["grouped"] == {(i, o) for i in (16, 8, 4) for o in (24, 12, 4)}


def test_images_keep_their_channels() -> None:
    assert grid_widths(3) == (3,)
    assert {job.widths[0] for job in jobs_of(conv())} == {4}


def test_the_heaviest_layers_of_each_operator_are_probed_where_they_are_wide_enough() -> None:
    probed = {(job.subgraph.layer.name, job.axis) for job in jobs_of(conv(64, 40)) if job.axis}
    assert probed == {("a", "in"), ("a", "out")}
    widths = [job.widths for job in jobs_of(conv(64, 40)) if job.axis == "in"]
    assert widths == [(32, 40), (33, 40), (36, 40), (40, 40), (48, 40)]
    assert not [job for job in jobs_of(conv(12, 12)) if job.axis]


def test_costs_follow_the_widths() -> None:
    jobs = {job.widths: job for job in jobs_of(conv(64, 64)) if job.axis is None}
    assert jobs[64, 64].macs == 4 * jobs[32, 32].macs == 64 * 64 * 9 * 8 * 8
    assert jobs[64, 64].weight_bytes == 4 * jobs[32, 32].weight_bytes == 64 * 64 * 9 * 4


def test_sittings_keep_turns_together_and_within_the_limits() -> None:
    jobs = jobs_of(unet())
    assert sittings(jobs, 2**40, 2**60) == [jobs]
    for limits in ((30_000, 2**60), (2**40, 200_000)):
        lists = sittings(jobs, *limits)
        assert [job for each in lists for job in each] == jobs
        assert len(lists) > 1
        turns = [{job.turn for job in each} for each in lists]
        assert sum(map(len, turns)) == len(set.union(*turns))
        for each in lists:
            fits = sum(job.weight_bytes for job in each) <= limits[0] and sum(job.macs for job in each) <= limits[1]
            assert fits or len({job.turn for job in each}) == 1
