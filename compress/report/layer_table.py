"""Block by block and layer by layer: what was removed and what that bought, predicted against measured."""

from __future__ import annotations

from compress.report import wording
from compress.report.captions import named, short_runtimes
from compress.report.layers import LayerPart, LayerResult
from compress.report.results import Results


def layers_with_parts(results: Results) -> list[LayerResult]:
    """Return the layers of which the runtime's profiler tells their parts of the network's latency."""
    return [layer for layer in results.layers if layer.parts]


def totals(results: Results) -> dict[str, LayerPart]:
    """Add the layers' parts up, by target."""
    layers = layers_with_parts(results)
    return {
        name: LayerPart(
            sum(layer.parts[name].before_ms for layer in layers),
            sum(layer.parts[name].after_ms for layer in layers),
            sum(layer.parts[name].predicted_saving_ms for layer in layers),
        )
        for name in (layers[0].parts if layers else ())
    }


def bought(results: Results) -> list[str]:
    """Say on each target which layers bought the most, and where the prediction was furthest off."""
    found, sentences = totals(results), []
    for name, short in zip(found, short_runtimes(list(found)), strict=True):
        parts = {layer.name: layer.parts[name] for layer in layers_with_parts(results)}
        most = sorted(parts, key=lambda layer: -parts[layer].saving_ms)[:3]
        off, part = max(parts.items(), key=lambda pair: abs(pair[1].saving_ms - pair[1].predicted_saving_ms))
        whole = found[name]
        sentences.append(
            f"{short}: {wording.listed(most)} bought the most. The profile said {signed_ms(whole.predicted_saving_ms)} "
            f"ms in all, {signed_ms(whole.saving_ms)} ms were measured; furthest off is {off}, "
            f"{signed_ms(part.predicted_saving_ms)} ms predicted and {signed_ms(part.saving_ms)} ms measured."
        )
    return sentences


def other_blocks(results: Results) -> list[str]:
    """Say which blocks could not go, and which went from the networks for further budgets."""
    sentences = [f"{name} would have gone, too: {reason}." for name, reason in results.refused_blocks.items()]
    for point in results.points:
        if point.blocks:
            sentences.append(f"For {named(point)}, {wording.listed(point.blocks)} went whole.")
        sentences += [
            f"For {named(point)}, {name} would have gone, too: {reason}."
            for name, reason in point.refused_blocks.items()
            if results.refused_blocks.get(name) != reason
        ]
    return sentences


def grouped(results: Results) -> str:
    """Say what became of the layers that are grouped now, and how their inputs come."""
    gathered = [layer.name for layer in results.groupings if layer.gathers]
    ordered = len(results.groupings) - len(gathered)
    sentences = ["Each group of filters reads the inputs that it learned to need; the network computes what it did."]
    if ordered:
        sentences.append(f"The inputs of {ordered} come in the order in which the groups read them: the filters moved.")
    if gathered:
        sentences.append(f"Those of {wording.listed(gathered)} are gathered, as groups make them or share them.")
    return " ".join(sentences)


def signed_ms(value: float) -> str:
    """Write a saving with three significant digits; a loss has a minus.

    Example:
        >>> signed_ms(0.1234), signed_ms(-0.0021)
        ('0.123', '−0.00210')
    """
    return (wording.MINUS if value < 0 else "") + wording.ms(abs(value))
