"""What the gates of a network say about its channels, in plain words, and what they do not."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np

from compress.report import wording
from compress.report.gates import GatedBlock

ALIKE = 0.9  # a rank correlation from which two orders are nearly one


def summary(blocks: Sequence[GatedBlock]) -> list[str]:
    """Say over all blocks what can go, what must stay, and where gates do not help."""
    channels = sum(block.largest.size for block in blocks)
    dead, specific = (sum(int(getattr(block, use).sum()) for block in blocks) for use in ("dead", "specific"))
    counts = (
        f"{_counted(len(blocks), 'block')} with {_counted(channels, 'channel')}, over {blocks[0].samples} training "
        f"samples: {dead} shut for every sample (every gate below {blocks[0].shut_below:g}), {specific} open for some "
        f"kinds of samples only, {channels - dead - specific} open for all kinds."
    )
    sentences = [counts]
    if dead:
        sentences.append(
            "What is shut for every sample can go: it reaches what follows only through the squeeze of its block, into "
            "which its mean is absorbed."
        )
    else:
        least = min(float(block.largest.min()) for block in blocks)
        sentences.append(
            f"The gates name nothing that could go for free: no channel is shut for every sample, and the least open "
            f"one of all still reaches {wording.significant(least, 2)} for some sample."
        )
    if specific:
        sentences.append("What some kinds of samples open must stay, however shut it is on the mean over all of them.")
    sentences += _worth(blocks)
    if any(block.inserted for block in blocks):
        sentences.append(
            "These blocks were put in while the method trained and absorbed afterwards, each by its mean gate: that is "
            "exact only for gates that do not depend on the sample."
        )
    return sentences


def of_block(block: GatedBlock) -> str:
    """Say which channels of one block are shut for all samples, and which for some kinds only."""
    sentences = []
    if block.dead.any():
        shut = np.flatnonzero(block.dead)
        names = wording.listed([str(channel) for channel in shut], most=8)
        sentences.append(f"Shut for every sample: {'channel' if len(shut) == 1 else 'channels'} {names}.")
    else:
        sentences.append(
            f"No channel is shut for every sample; the least open one reaches "
            f"{wording.significant(float(block.largest.min()), 2)}."
        )
    if block.specific.any():
        named = [f"{channel} ({_openers(block, channel)})" for channel in np.flatnonzero(block.specific)]
        sentences.append(f"Open for some kinds only: {wording.listed(named)}.")
    return " ".join(sentences)


def _worth(blocks: Sequence[GatedBlock]) -> list[str]:
    """Say whether the order of channels by gate times activation is another one than that by the gates alone."""
    found = [_rank_correlation(block.largest, block.activity.max(0)) for block in blocks if block.largest.size > 2]
    if not found:
        return []
    middle = statistics.median(found)
    text = (
        "A gate alone says nothing of the scale of what it gates, so channels are ranked by gate times activation; the "
        f"two orders agree with a rank correlation of {wording.significant(middle, 2)}"
        + (" (median of the blocks)" if len(found) > 1 else "")
    )
    return [text + (": here the gates alone would rank nearly alike." if middle >= ALIKE else ".")]


def _rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    ranks = [np.argsort(np.argsort(values, kind="stable"), kind="stable") for values in (first, second)]
    return float(np.corrcoef(*ranks)[0, 1])


def _openers(block: GatedBlock, channel: int) -> str:
    means = block.means[:, channel]
    open_for = [kind for kind, mean in zip(block.kinds, means, strict=True) if mean >= block.shut_below]
    if not open_for:
        return "a few samples"
    if len(open_for) > len(block.kinds) / 2:
        return f"all but {wording.listed([kind for kind in block.kinds if kind not in open_for], most=3)}"
    return wording.listed(open_for, most=3)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
