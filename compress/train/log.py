"""Logs of a training run, by Lightning Fabric's loggers."""

from __future__ import annotations

from pathlib import Path

from lightning_fabric.loggers import CSVLogger, Logger, TensorBoardLogger

from device_profiles.errors import RuntimeUnavailable

NEVER = 10**12  # steps: rows are written with the checkpoints, so that a resumed run logs no step twice


def make_logger(kind: str, checkpoint: Path) -> Logger:
    """Make a logger for the run that a checkpoint belongs to.

    Its folder is logs/NAME beside the checkpoint NAME.safetensors, with a version_0, and one more for each time that
    the run was resumed.

    Args:
        kind: "csv" or "tensorboard".
        checkpoint: Where the run keeps its state.

    Raises:
        RuntimeUnavailable: TensorBoard is not installed.
    """
    folder, name = checkpoint.parent / "logs", checkpoint.stem
    if kind == "csv":
        return CSVLogger(folder, name=name, flush_logs_every_n_steps=NEVER)
    try:
        return TensorBoardLogger(folder, name=name)
    except ModuleNotFoundError as error:
        raise RuntimeUnavailable(
            "log (='tensorboard') needs a package that is not installed; pip install tensorboard, or choose 'csv'"
        ) from error
