"""Whether two runs of a network agree, judged by Polygraphy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from polygraphy.comparator import Comparator, IterationResult, RunResults, SimpleCompareFunc
from polygraphy.logger import G_LOGGER

from device_profiles.errors import BadInput, ParityFailed

Array = NDArray[np.generic]

# Of the output's spread. Float32 kernels that add in another order differ by about 1e-6 of it; bf16 arithmetic, with 8
# bits of mantissa, by 3e-3 in a ResNet-18. TF32 has the mantissa of f16.
TOLERANCES = {"f32": 1e-4, "tf32": 1e-2, "f16": 1e-2, "bf16": 3e-2}


@dataclass(frozen=True)
class Parity:
    """How far outputs are from the reference.

    Attributes:
        output: Name of the output that differs most, relative to its spread.
        max_abs_error: Its largest difference; infinite where something is no number.
        relative_to_spread: The same, over the reference's largest minus smallest value.
        tolerance: What `relative_to_spread` may be.
        passed: Whether every output is within the tolerance.
    """

    output: str
    max_abs_error: float
    relative_to_spread: float
    tolerance: float
    passed: bool

    def check(self, what: str) -> None:
        """Insist on agreement.

        Args:
            what: What was compared, for the message.

        Raises:
            ParityFailed: They do not agree.
        """
        if not self.passed:
            raise ParityFailed(
                f"{what}: output {self.output!r} differs by {self.max_abs_error:.2g}, {self.relative_to_spread:.1e} of "
                f"its spread, allowed are {self.tolerance:.0e}; compare the runtimes' versions and the precision"
            )


def compare(reference: Mapping[str, Array], actual: Mapping[str, Array], tolerance: float) -> Parity:
    """Compare the outputs of two runs on the same inputs.

    Args:
        reference: Output name -> values, at least one.
        actual: The outputs to judge, with the same names and shapes.
        tolerance: Largest difference that passes, as a part of the reference output's spread; more than 0.

    Raises:
        BadInput: There is nothing to compare, or the tolerance is not positive.
        ParityFailed: The names or shapes of the outputs differ.
    """
    if not reference or not tolerance > 0:
        raise BadInput(f"reference (={list(reference)}) must hold an output, and tolerance (={tolerance}) be above 0")
    shapes, others = ({name: array.shape for name, array in run.items()} for run in (reference, actual))
    if shapes != others:
        raise ParityFailed(f"the outputs are {others}, those of the reference {shapes}; compare exports of one network")
    runs = [{name: array.astype(np.float64) for name, array in run.items()} for run in (reference, actual)]
    for name in reference:
        if not all(np.isfinite(run[name]).all() for run in runs):
            return Parity(name, float("inf"), float("inf"), tolerance, passed=False)
    spreads = {name: _spread(array) for name, array in runs[0].items()}
    errors, passed = _judge(runs[0], runs[1], {name: tolerance * spread for name, spread in spreads.items()})
    worst = max(errors, key=lambda name: errors[name] / spreads[name])
    return Parity(worst, errors[worst], errors[worst] / spreads[worst], tolerance, passed)


def _judge(
    reference: Mapping[str, Array], actual: Mapping[str, Array], limits: dict[str, float]
) -> tuple[dict[str, float], bool]:
    """Return each output's largest difference, and whether all are within their limits."""
    runs = [
        (name, [IterationResult(outputs=dict(outputs), runner_name=name)])
        for name, outputs in (("reference", reference), ("actual", actual))
    ]
    judge = SimpleCompareFunc(atol=limits, rtol=0, check_error_stat="max")
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
        (result,) = Comparator.compare_accuracy(RunResults(runs), compare_func=judge)[0].values()
    return {name: float(output.max_absdiff) for name, output in result[0].items()}, all(map(bool, result[0].values()))


def _spread(values: NDArray[np.float64]) -> float:
    """Largest minus smallest value; of a constant, which has none, its size."""
    return float(values.max() - values.min()) or float(np.abs(values).max()) or 1.0
