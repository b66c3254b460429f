"""The folder of one run: what is finished is kept, so that a killed run goes on where it stopped.

Under torchrun the first process alone measures, decides and writes, and tells the others.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any

from compress.train.processes import make_fabric, on_first
from device_profiles.errors import BadInput
from device_profiles.store import write_whole

CONFIG = "config.json"
RECIPE = "recipe"  # an entry of every run's configuration
WORK = "work"  # checkpoints and intermediate results, of no interest once the run is done


class RunFolder:
    """A run's folder, tied to one configuration.

    Args:
        path: The folder; made if it is missing.
        config: Everything the results depend on, as JSON. A folder that holds steps of another one is refused.
        restart: Forget what an earlier run left in the folder.

    Raises:
        BadInput: The folder belongs to another configuration, holds something else, or cannot be written.
    """

    def __init__(self, path: Path, config: Mapping[str, Any], *, restart: bool = False) -> None:
        self.path = path
        self.first = make_fabric().is_global_zero
        on_first(lambda: self._claim(config, restart))

    def _claim(self, config: Mapping[str, Any], restart: bool) -> None:
        path, text = self.path, json.dumps(config, indent=1, sort_keys=True) + "\n"
        if path.exists() and not path.is_dir():
            raise BadInput(f"output (={path}) is a file; name a folder")
        if path.is_symlink() and not path.exists():
            raise BadInput(f"output (={path}) is a link to {path.readlink()}, which is not there; make that folder")
        found = path / CONFIG
        begun = set(path.glob(f".{CONFIG}.*.part"))  # a configuration that a killed run was writing
        if path.is_dir() and set(path.iterdir()) - begun and not _may_be(_keys(found), config.keys()):
            raise BadInput(f"{path} is not empty and no run's folder; name another one")
        for part in path.rglob(".*.part"):  # what a killed run was writing; nobody reads it
            part.unlink()
        if found.exists() and (restart or not self._holds_steps()):
            _empty(path)
        elif found.exists() and found.read_text("utf-8") != text:
            stored = json.loads(found.read_bytes())
            changed = " and ".join(key for key in {**config, **stored} if stored.get(key) != config.get(key))
            raise BadInput(
                f"{path} holds a run with another {changed}; add --restart to replace it, or name another folder with "
                "--output"
            )
        write_whole(path / CONFIG, text)

    def _holds_steps(self) -> bool:
        """Whether anything would be lost with the folder; a run that found no data or weights left nothing."""
        nothing = (self.path / CONFIG, self._seconds_path)
        return any(each.is_file() and each not in nothing for each in self.path.rglob("*"))

    def checkpoint(self, name: str) -> Path:
        """Return where a training run of this name keeps its state."""
        return self.path / WORK / f"{name}.safetensors"

    def once(self, name: str, compute: Callable[[], Any]) -> Any:
        """Return a step's JSON result: the stored one, or the computed one after storing it."""
        return on_first(lambda: self._stored(name, compute))

    def once_together(self, name: str, compute: Callable[[], Any]) -> Any:
        """Return a step's JSON result like `once`; what computes it takes all processes."""
        found = None if on_first(lambda: self._path(name).exists()) else compute()
        return self.once(name, lambda: found)

    def _stored(self, name: str, compute: Callable[[], Any]) -> Any:
        path = self._path(name)
        if not path.exists():
            write_whole(path, json.dumps(compute()))
        return json.loads(path.read_text("utf-8"))

    def _path(self, name: str) -> Path:
        return self.path / WORK / f"{name}.json"

    @contextlib.contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Note how long a step took, the first time it is finished."""
        start = time.monotonic()
        yield
        seconds = self.seconds()
        if self.first and step not in seconds:
            seconds[step] = round(time.monotonic() - start, 2)
            write_whole(self._seconds_path, json.dumps(seconds))

    def seconds(self) -> dict[str, float]:
        """Return the seconds of every finished step, in order."""
        return json.loads(self._seconds_path.read_text("utf-8")) if self._seconds_path.exists() else {}

    @property
    def _seconds_path(self) -> Path:
        return self.path / WORK / "seconds.json"


def _empty(path: Path) -> None:
    """Remove what is in a folder, which may itself be a link.

    The configuration goes last and fits no run until then: a folder that is killed half-way is still known as a run's,
    and what is left in it is not taken for one.
    """
    write_whole(path / CONFIG, json.dumps(dict.fromkeys(_keys(path / CONFIG) or ())))
    for each in sorted(path.iterdir(), key=lambda each: each.name == CONFIG):
        if each.is_dir() and not each.is_symlink():
            shutil.rmtree(each)
        else:
            each.unlink()


def _may_be(found: Set[str] | None, wanted: Set[str]) -> bool:
    """Whether a configuration is a run's, by its entries' names: some runs have one entry more than others."""
    return found is not None and found >= wanted & {RECIPE} and (found <= wanted or found >= wanted)


def _keys(config: Path) -> Set[str] | None:
    """Return what a configuration's entries are called; None where there is none."""
    try:
        found = json.loads(config.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return found.keys() if isinstance(found, dict) else None
