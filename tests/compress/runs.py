"""Runs of recipes that are stopped on the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress import pipeline
from compress.start import Start


def stop_before_finetuning(folder: Path) -> None:
    """Compress by `folder`/recipe.toml into `folder`/run until fine-tuning would begin."""
    train = Start.train

    def stopping(self, name, *arguments, **keywords):
        if name == "finetune":
            raise KeyboardInterrupt
        return train(self, name, *arguments, **keywords)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Start, "train", stopping)
        with pytest.raises(KeyboardInterrupt):
            pipeline.compress(folder / "recipe.toml", folder / "run")
