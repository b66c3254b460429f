"""What a reader sees in each figure, in plain words, computed from the numbers: what did not work is said too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from compress.report import wording
from compress.report.layers import LayerResult
from compress.report.results import NetworkResult, Phase, PointResult, Results, TargetResult

SAME_LATENCY = 1.03  # a ratio of latencies below this is within what the timing repeats to
FAR_OFF_PERCENT = 10.0  # a prediction this far from its measurement is worth a word


def headline(results: Results) -> str:
    """Say in one sentence what came out."""
    faster = wording.listed(
        [f"{wording.significant(t.speedup, 3)} times as fast in {runtime(t.name)}" for t in results.targets]
    )
    metric, before, after = results.metric, results.baseline, results.pruned
    share = 100 * after.parameters / before.parameters
    return (
        f"The pruned network is {faster}. Its held-out {metric.name} went from "
        f"{wording.significant(before.quality, 3)} to {wording.significant(after.quality, 3)} "
        f"({wording.change(metric, before.quality, after.quality)}; {wording.better(metric)}), "
        f"with {share:.0f}{wording.JOINED}% of the parameters."
    )


def runtime(target: str, version: str = "") -> str:
    """Write a target's name as people say it, with the runtime's version on request.

    Example:
        >>> runtime("onnxruntime-cpu"), runtime("openvino-cpu-bf16"), runtime("something-else")
        ('ONNX Runtime on CPU', 'OpenVINO on CPU, bf16', 'something-else')
    """
    known = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "tensorrt": "TensorRT"}
    name, _, rest = target.partition("-")
    device, _, precision = rest.partition("-")
    if name not in known:
        return f"{target} {version}".rstrip()
    return f"{known[name]} {version}".rstrip() + f" on {device.upper()}" + (f", {precision}" if precision else "")


def tried_rates(results: Results) -> list[str]:
    """Say which learning rates were tried before which training, and with what loss."""
    phases = [(phase.label, phase) for phase in results.history]
    phases += [(f"the network for {named(point)}", point.finetune) for point in results.points if point.finetune]
    return [_tried_rates(phase, label) for label, phase in phases if phase.tried]


def named(point: PointResult) -> str:
    """Return what a network for another budget than the run's own is called in a sentence."""
    return f"{runtime(point.targets[0])} alone" if point.kind == "target" else f"“{point.budget}”"


def _tried_rates(phase: Phase, label: str) -> str:
    least = min(phase.tried, key=phase.tried.__getitem__)
    best = phase.rate or least
    ends = [f"{wording.significant(loss, 3)} at {rate}" for rate, loss in phase.tried.items()]
    ends += [f"infinity at {rate}" for rate in phase.diverged]
    listed = wording.listed(ends, len(ends))
    why = "" if best == least else "; of those that are next to even the highest is taken"
    return f"Learning rate of {label}: {best}, after short trainings that ended at a loss of {listed}{why}."


@dataclass(frozen=True)
class PairedDifference:
    """Mean difference between two networks over the same images, and half the width of its 95 % interval."""

    mean: float
    half: float
    n: int

    @property
    def could_be_chance(self) -> bool:
        """Whether the interval holds zero."""
        return abs(self.mean) <= self.half


def paired_difference(network: NetworkResult, other: NetworkResult) -> PairedDifference | None:
    """Compare `network` with `other` image by image; None where either has no quality by image."""
    pairs = list(zip(network.quality_by_image, other.quality_by_image, strict=False))
    n = len(pairs)
    if n < 2 or len(network.quality_by_image) != len(other.quality_by_image):
        return None
    differences = [ours - theirs for ours, theirs in pairs]
    mean = sum(differences) / n
    half = 1.96 * math.sqrt(sum((difference - mean) ** 2 for difference in differences) / (n - 1) / n)
    return PairedDifference(mean, half, n)


def against_baseline(results: Results) -> str:
    """Compare the pruned network with the baseline image by image; empty without such numbers."""
    found = paired_difference(results.pruned, results.baseline)
    if found is None:
        return ""
    verdict = "a difference that could be chance" if found.could_be_chance else "more than chance explains"
    interval = f"{wording.signed(found.mean, 3)} ± {wording.significant(found.half, 2)} (95 %)"
    return (
        f"Image by image over {found.n} held-out images, the pruned network differs from the baseline by "
        f"{interval.replace(' ', wording.JOINED)}: {verdict}."
    )


def layer_latency(results: Results, target: TargetResult) -> str:
    """Say where the time was, where it was saved, and how far isolated layers are from the whole network."""
    timed = [(layer, layer.latency_ms[target.name]) for layer in results.layers if target.name in layer.latency_ms]
    before = sum(latency.before_ms for _, latency in timed)
    after = sum(latency.after_ms for _, latency in timed)
    slowest = sorted(timed, key=lambda pair: -pair[1].before_ms)[:3]
    share = 100 * sum(latency.before_ms for _, latency in slowest) / before if before else 0.0
    grew = [
        layer.name
        for layer, latency in timed
        if latency.after_ms > SAME_LATENCY * latency.before_ms
        and (layer.width_in_after, layer.width_after) != (layer.width_in_before, layer.width_before)
    ]
    return (
        f"{wording.listed([layer.name for layer, _ in slowest])} took {share:.0f}{wording.JOINED}% of the time before. "
        f"All layers, one by one, add up to {wording.ms(before)} → {wording.ms(after)} ms; the whole network measured "
        f"{wording.ms(target.baseline_ms)} → {wording.ms(target.pruned_ms)} ms."
        + (f" {wording.listed(grew)} became slower." if grew else "")
    )


def cuts(results: Results) -> str:
    """Say what decided the widths, first of all where the method itself made no choice."""
    layers, choice = results.layers, own_choice(results)
    judged = [layer for layer in layers if layer.curve_after]
    hinged = [layer for layer in judged if layer.hinge is not None]
    steered = [layer for layer in judged if layer.cut_by in ("threshold", "solver")]
    whole = [layer for layer in judged if layer.cut_by == "nothing"]
    dead = [layer.name for layer in judged if layer.dead]
    left = [layer for layer in layers if layer.cut_by != "block"]
    frozen = [layer.name for layer in left if not layer.curve_after and layer.name not in results.rigid]
    sentences = [_choices(results, len(hinged), len(judged))]
    if results.blocks:
        count = sum(len(block.layers) for block in results.blocks)
        sentences.append(f"{wording.listed([block.name for block in results.blocks])} went whole, {count} layers")
    if steered:
        sentences.append(f"The {steered_by(steered)} steered to the target latency made the cut in {len(steered)}")
        if deeper := [layer for layer in steered if layer.hinge is not None]:
            sentences[-1] += f", {len(deeper)} of them with a {choice} that would have kept more"
    if by_hinge := [layer for layer in judged if layer.cut_by == "hinge"]:
        were = "was" if len(by_hinge) == 1 else "were"
        sentences.append(f"{wording.listed([layer.name for layer in by_hinge])} {were} cut at the {choice}")
        if any(layer.width_after != layer.hinge for layer in by_hinge):
            sentences[-1] += ", rounded up to a width that runtimes run well"
    if whole:
        sentences.append(f"{wording.listed([layer.name for layer in whole])} kept every channel")
    if dead:
        sentences.append(f"{wording.listed(dead)} came out dead (every norm near zero) and kept {_its(dead)} floor")
    if frozen:
        sentences.append(
            f"{wording.listed(frozen)} cannot be cut: {_its(frozen)} channels are the network's output or fixed"
        )
    if results.rigid:
        first, reason = next(iter(results.rigid.items()))
        sentences.append(
            f"The code of the network does not let channels of {wording.listed(list(results.rigid))} go: with half of "
            f"those of {first}, it {reason}"
        )
    return ". ".join(sentences) + "."


def steered_by(layers: Sequence[LayerResult]) -> str:
    """Return what decided the widths that the method itself did not: "threshold" or "solver"."""
    return "solver" if any(layer.cut_by == "solver" for layer in layers) else "threshold"


def own_choice(results: Results) -> str:
    """Return what the method's own choice of channels is called."""
    return "hinge" if results.method.name == "DECIG" else f"choice of {results.method.name}"


def _choices(results: Results, made: int, layers: int) -> str:
    """Say in how many layers the method itself made a choice."""
    if results.steered_to:
        return f"Stage I was steered to another budget ({results.steered_to}), so the scores alone decide here"
    if results.method.name != "DECIG":
        if not made:
            return f"{results.method.name} scores channels and makes no cut of its own"
        return f"{results.method.name} chose channels of its own in {made} of {layers} layers"
    if not made:
        return f"No hinge formed in any of {layers} layers"
    if made == layers:
        return f"A hinge formed in all {layers} layers"
    return f"No hinge formed in {layers - made} of {layers} layers"


def learned(results: Results) -> str:
    """Compare the networks with an answer that nothing was learned for; empty where the task knows none."""
    found, metric = results.trivial, results.metric
    if found is None:
        return ""
    return (
        f"For comparison, {found.name}, which nothing was learned for: {wording.significant(found.quality, 4)} "
        f"{metric.unit}".rstrip()
        + "."
    )


def _its(names: Sequence[str]) -> str:
    return "its" if len(names) == 1 else "their"


def short_runtimes(targets: Sequence[str]) -> list[str]:
    """Name targets without their device where the runtimes alone tell them apart.

    Example:
        >>> short_runtimes(["onnxruntime-cpu", "openvino-cpu"]), short_runtimes(["openvino-cpu", "openvino-cpu-bf16"])
        (['ONNX Runtime', 'OpenVINO'], ['OpenVINO on CPU', 'OpenVINO on CPU, bf16'])
    """
    names = [runtime(target) for target in targets]
    short = [name.partition(" on ")[0] for name in names]
    return short if len(set(short)) == len(short) else names


def yardstick(results: Results, target: TargetResult) -> list[str]:
    """Compare with uniform widths at the same latency, whichever won, and judge the prediction."""
    sentences = []
    uniform = results.network("uniform")
    if uniform is not None and "uniform" in target.networks:
        sentences.append(_against_uniform(results, uniform, target))
    predicted = target.networks["pruned"].predicted_ms
    if predicted is not None:
        off = 100 * (predicted / target.pruned_ms - 1)
        far = ": do not trust this profile for other widths" if abs(off) > FAR_OFF_PERCENT else ""
        sentences.append(
            f"The profile had predicted {wording.ms(predicted)} ms for the pruned network, {wording.percent(off)} from "
            f"what was measured{far}."
        )
    if unsettled := _unsettled(results, target):
        sentences.append(unsettled)
    return sentences


def _unsettled(results: Results, target: TargetResult) -> str:
    """Name the networks whose latency did not settle and say what that means; empty if all did."""
    ran = [
        (network.label, target.networks[network.key].latency)
        for network in results.own_networks
        if network.key in target.networks
    ]
    loose = [(label, latency) for label, latency in ran if not latency.stable]
    if not loose:
        return ""
    names = wording.listed([f"“{label}”" for label, _ in loose])
    first, number = ("latencies", "numbers") if len(loose) > 1 else ("latency", "number")
    spreads = sorted(round(latency.spread_percent) for _, latency in loose)
    spread = f"{spreads[0]} to {spreads[-1]}" if spreads[0] < spreads[-1] else str(spreads[0])
    return (
        f"The {first} of {names} did not settle: one run in ten took at least {spread}{wording.JOINED}% longer than "
        f"the {number} given here, most often because the machine was busy with something else. Measure again on a "
        "quiet one before relying on small differences."
    )


def _against_uniform(results: Results, uniform: NetworkResult, target: TargetResult) -> str:
    ours = results.pruned
    found = paired_difference(ours, uniform)
    gain = ours.quality - uniform.quality if results.metric.higher_is_better else uniform.quality - ours.quality
    words = "does better than" if gain > 0 else "does worse than"
    if gain == 0 or (found is not None and found.could_be_chance):
        words = "is not clearly different from"
    return (
        f"At {wording.ms(target.pruned_ms)} ms, the pruned network {words} uniform widths at "
        f"{wording.ms(target.networks['uniform'].latency.ms)} ms: {wording.significant(ours.quality, 3)} against "
        f"{wording.significant(uniform.quality, 3)}."
    )


def around_the_cut(results: Results) -> str:
    """Say what the cut itself cost, and what cutting at random would have cost."""
    error = results.pruning_error
    if error is None:
        return ""
    metric = results.metric
    text = (
        f"Cutting alone moved held-out {metric.name} from {wording.significant(error.condensed, 3)} to "
        f"{wording.significant(error.pruned, 3)} ({wording.change(metric, error.condensed, error.pruned)})"
    )
    if not error.random:
        return text + "."
    mean = sum(error.random) / len(error.random)
    blocks = "the same blocks and " if results.blocks else ""
    return (
        f"{text}; removing {blocks}as many channels at random moved it to {wording.significant(mean, 3)} on average "
        f"({wording.change(metric, error.condensed, mean)}, {len(error.random)} draws)."
    )


def proof(results: Results) -> str:
    """Say what was proven about the cut."""
    found = results.proof
    if found.removed_channels == 0:
        return "Nothing was removed, so nothing is proven."
    labels = "every channel still meets the partner it met before" if found.labels_ok else "the label check FAILED"
    verb = "equals" if found.max_error <= found.tolerance else "does NOT equal"
    return (
        f"Removing {found.removed_channels:,} channels {verb} zeroing them: the outputs differ by "
        f"{wording.small(found.max_error)} of their spread (allowed: {wording.small(found.tolerance)}), and {labels}. "
        f"Checked in {wording.significant(found.seconds, 2)} s."
    )
