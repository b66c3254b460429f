from __future__ import annotations

import dataclasses
import doctest
from collections.abc import Sequence
from types import ModuleType

import pytest

from compress.report import captions, comparison, layer_table, svg, wording
from compress.report.layers import LayerResult
from compress.report.results import Metric, Phase, Results
from device_profiles.measurement import Measurement
from tests.compress.report.example import example_results, with_blocks, with_points

RESULTS = example_results()


def with_quality(key: str, by_image: tuple[float, ...], results: Results = RESULTS) -> Results:
    networks = tuple(
        dataclasses.replace(n, quality=sum(by_image) / len(by_image), quality_by_image=by_image) if n.key == key else n
        for n in results.networks
    )
    return dataclasses.replace(results, networks=networks)


def cuts(layers: Sequence[LayerResult]) -> str:
    return captions.cuts(dataclasses.replace(RESULTS, layers=tuple(layers)))


@pytest.mark.parametrize(
    "module", [captions, comparison, layer_table, svg, wording], ids=lambda module: module.__name__
)
def test_the_examples_in_docstrings_hold(module: ModuleType) -> None:
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert found.failed == 0


def test_headline_says_speed_quality_and_size() -> None:
    text = captions.headline(RESULTS).replace(wording.JOINED, " ")
    assert "2.44 times as fast in ONNX Runtime on CPU and 2.23 times as fast in OpenVINO on CPU" in text
    assert "lower is better" in text
    assert "18 % of the parameters" in text


def test_no_hinge_anywhere_is_said_first() -> None:
    layers = [dataclasses.replace(layer, hinge=None, threshold=0.1) for layer in RESULTS.layers]
    text = cuts(layers)
    assert text.startswith(
        "No hinge formed in any of 13 layers. The threshold steered to the target latency made the cut"
    )
    assert "were cut at the hinge" not in text


def test_a_solver_is_named_where_no_threshold_made_the_cut() -> None:
    layers = [dataclasses.replace(layer, hinge=None, threshold=None) for layer in RESULTS.layers]
    assert "The solver steered to the target latency made the cut in" in cuts(layers)


def test_missing_hinges_are_counted() -> None:
    text = captions.cuts(RESULTS)
    assert text.startswith(
        "No hinge formed in 10 of 13 layers. The threshold steered to the target latency made the cut in 8."
    )
    assert "down.4.conv, down.5.conv and up.1.conv were cut at the hinge." in text
    assert "down.6.conv came out dead" in text
    assert "up.6.conv cannot be cut" in text


def test_blocks_that_went_whole_are_named_and_their_layers_are_not_called_frozen() -> None:
    text = captions.cuts(with_blocks(RESULTS))
    assert ". middle went whole, 2 layers." in text
    assert "up.6.conv cannot be cut" in text
    assert "down.3.conv" not in text
    assert "removing the same blocks and as many channels at random" in captions.around_the_cut(with_blocks(RESULTS))


def test_a_hinge_that_was_rounded_up_is_still_the_cut() -> None:
    rounded = [dataclasses.replace(layer, hinge=layer.hinge and layer.hinge - 1) for layer in RESULTS.layers]
    text = cuts(rounded)
    assert "down.4.conv, down.5.conv and up.1.conv were cut at the hinge, rounded up to a width" in text


def test_hinges_that_would_have_kept_more_are_counted() -> None:
    unused = [dataclasses.replace(layer, hinge=layer.hinge and layer.hinge + 9) for layer in RESULTS.layers]
    assert "made the cut in 11, 3 of them with a hinge that would have kept more." in captions.cuts(
        dataclasses.replace(RESULTS, layers=tuple(unused))
    )


def test_hinges_everywhere_are_said() -> None:
    layers = [dataclasses.replace(layer, hinge=layer.width_after) for layer in RESULTS.layers if layer.curve_after]
    assert cuts(layers).startswith("A hinge formed in all 13 layers.")


def test_a_difference_that_could_be_chance_is_called_so() -> None:
    noisy = with_quality("baseline", (5.0, 6.0, 5.0, 6.0))
    assert "could be chance" in captions.against_baseline(with_quality("pruned", (6.0, 5.0, 5.0, 6.0), noisy))
    assert "more than chance explains" in captions.against_baseline(with_quality("pruned", (5.9, 7.0, 6.1, 7.0), noisy))


def test_networks_judged_on_different_images_are_not_paired() -> None:
    assert captions.against_baseline(with_quality("pruned", (5.0, 6.0))) == ""


@pytest.mark.parametrize(
    ("uniform", "verdict"),
    [((7.0, 8.1), "does better than"), ((1.0, 2.1), "does worse than"), ((9.0, 2.0), "is not clearly different from")],
)
def test_uniform_widths_are_judged_whichever_won(uniform: tuple[float, ...], verdict: str) -> None:
    results = with_quality("uniform", uniform, with_quality("pruned", (5.0, 6.0)))
    assert verdict in captions.yardstick(results, results.targets[0])[0]


def test_a_metric_to_maximise_is_judged_the_other_way() -> None:
    metric = Metric("PSNR", "dB", higher_is_better=True)
    results = dataclasses.replace(
        with_quality("uniform", (7.0, 8.1), with_quality("pruned", (5.0, 6.0))), metric=metric
    )
    assert "does worse than" in captions.yardstick(results, results.targets[0])[0]
    assert "dB; higher is better" in captions.headline(results).replace(wording.JOINED, " ")


def test_a_bad_prediction_and_an_unsettled_latency_are_said() -> None:
    target = RESULTS.targets[1]
    far = dataclasses.replace(target.networks["pruned"], predicted_ms=2 * target.pruned_ms)
    target = dataclasses.replace(target, networks=target.networks | {"pruned": far})
    text = " ".join(captions.yardstick(RESULTS, target))
    assert "do not trust this profile for other widths" in text
    text = text.replace(wording.JOINED, " ")
    spread = target.networks["quarter"].latency.spread_percent
    assert "The latency of “a quarter of the width” did not settle: one run in ten took at least" in text
    assert f"at least {spread:.0f} % longer than the number given here" in text
    assert "did not settle" not in " ".join(captions.yardstick(RESULTS, RESULTS.targets[0]))


def test_several_unsettled_latencies_share_a_sentence() -> None:
    target = RESULTS.targets[0]
    loose = {
        key: dataclasses.replace(
            target.networks[key], latency=Measurement((1.0,) * 8 + (slow,) * 2, None, "wall", stable=False)
        )
        for key, slow in (("uniform", 1.1), ("quarter", 1.3))
    }
    text = captions.yardstick(RESULTS, dataclasses.replace(target, networks=target.networks | loose))[-1]
    assert text.startswith("The latencies of “uniform widths, fine-tuned” and “a quarter of the width” did not settle")
    assert "at least 10 to 30 % longer than the numbers given here" in text.replace(wording.JOINED, " ")


def test_layers_that_became_slower_are_named() -> None:
    target = RESULTS.targets[0]
    same, cut = (
        dataclasses.replace(
            layer, latency_ms={target.name: dataclasses.replace(layer.latency_ms[target.name], after_ms=9.0)}
        )
        for layer in RESULTS.layers[:2]
    )
    text = captions.layer_latency(dataclasses.replace(RESULTS, layers=(same, cut, *RESULTS.layers[2:])), target)
    assert text.endswith("ms. down.1.conv became slower.")  # the other one is the same layer measured twice
    assert "became slower" not in captions.layer_latency(RESULTS, target)


def test_random_removal_is_compared() -> None:
    text = captions.around_the_cut(RESULTS)
    assert "removing as many channels at random moved it to 13.1 on average" in text
    assert RESULTS.pruning_error is not None
    alone = dataclasses.replace(RESULTS, pruning_error=dataclasses.replace(RESULTS.pruning_error, random=()))
    assert captions.around_the_cut(alone).endswith("(+0.9\u00a0%).")
    assert captions.around_the_cut(dataclasses.replace(RESULTS, pruning_error=None)) == ""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "equals zeroing them"),
        ({"max_error": 0.2}, "does NOT equal zeroing them"),
        ({"labels_ok": False}, "label check FAILED"),
        ({"removed_channels": 0}, "nothing is proven"),
    ],
)
def test_a_failed_proof_is_not_hidden(changes: dict[str, object], words: str) -> None:
    results = dataclasses.replace(RESULTS, proof=dataclasses.replace(RESULTS.proof, **changes))
    assert words in captions.proof(results)


def test_comparison_sorts_by_target_and_latency() -> None:
    faster = dataclasses.replace(
        RESULTS.targets[0], networks=RESULTS.targets[0].networks | {"pruned": RESULTS.targets[0].networks["quarter"]}
    )
    other = dataclasses.replace(RESULTS, targets=(faster, RESULTS.targets[1]))
    lines = comparison.comparison({"slow": RESULTS, "fast": other}).splitlines()
    assert [line.split()[:2] for line in lines[1:3]] == [["onnxruntime-cpu", "fast"], ["onnxruntime-cpu", "slow"]]
    assert "6 of 6" in lines[1]
    assert len(lines) == 5


def test_layer_names_keep_what_tells_them_apart() -> None:
    assert wording.short_names(["a.conv", "b.conv"]) == {"a.conv": "a", "b.conv": "b"}
    assert wording.short_names(["a.conv", "b.fc"]) == {"a.conv": "a.conv", "b.fc": "b.fc"}
    assert wording.short_names(["conv"]) == {"conv": "conv"}
    assert wording.short_names(["encoder.block.12"], most=9) == {"encoder.block.12": "…block.12"}


def test_a_list_of_nothing_says_so() -> None:
    assert wording.listed([]) == "none"
    assert wording.listed(["a"]) == "a"


def test_channels_that_the_code_keeps_are_said_with_the_reason() -> None:
    rigid = {"up.6.conv": "does not run (shape '[-1, 3]' is invalid)"}
    said = captions.cuts(dataclasses.replace(RESULTS, rigid=rigid))
    assert "does not let channels of up.6.conv go: with half of those of up.6.conv, it does not run (shape" in said
    assert "cannot be cut" not in said
    assert "up.6.conv cannot be cut" in captions.cuts(RESULTS)


def test_a_network_of_a_sweep_is_not_said_to_have_no_hinges() -> None:
    said = captions.cuts(dataclasses.replace(RESULTS, steered_to="4 times as fast"))
    assert said.startswith("Stage I was steered to another budget (4 times as fast), so the scores alone decide here")


def test_a_rate_that_was_probed_stands_beside_those_that_lost():
    phase = Phase("finetune", "stage II", (), (), tried={"0.002": 0.25, "0.004": 0.252}, rate="0.004", diverged=("9",))
    swept = with_points(RESULTS)
    first = dataclasses.replace(swept.points[0], finetune=dataclasses.replace(phase, tried={"0.002": 0.125}, rate=""))
    results = dataclasses.replace(swept, history=(phase, *RESULTS.history), points=(first, *swept.points[1:]))
    own, other = captions.tried_rates(results)
    assert own == (
        "Learning rate of stage II: 0.004, after short trainings that ended at a loss of 0.250 at 0.002, 0.252 at "
        "0.004 and infinity at 9; of those that are next to even the highest is taken."
    )
    assert other.startswith("Learning rate of the network for “1.5 times as fast”: 0.002, after short trainings")
    assert captions.tried_rates(swept) == []
