from __future__ import annotations

import subprocess
import sys

import pytest

from compress.arguments import check_arguments, find_callable
from compress.tasks import TASKS
from compress.tasks.base import Accompanied, Comparable, Pictured
from device_profiles.errors import BadInput

TINY = {
    "scenes": {"train": 4, "held_out": 4, "size": 16},
    "paired": {"train_pictures": 4, "held_out_pictures": 4, "size": 16},
    "unpaired": {"train_pictures": 4, "held_out_pictures": 4, "size": 16},
    "super-resolution": {"size": 16, "held_out_size": 32, "held_out_patches": 4},
    "denoising": {"size": 16, "held_out_size": 32, "held_out_patches": 4},
    "classification": {"size": 8, "held_out_pictures": 4},
}


def test_listing_the_tasks_loads_no_torch():
    code = "import sys, compress.tasks; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", TASKS)
def test_every_task_is_made_by_name_and_agrees_with_itself(name):
    factory = find_callable(name, TASKS, "task")
    task = factory(**check_arguments(factory, TINY[name], "task"))
    held_out, batch = task.held_out(), task.batch(-1, 3)
    assert len(held_out) == len(held_out.targets) == 4
    assert len(batch) == len(batch.targets) == 3
    assert batch.inputs.shape[1] == held_out.inputs.shape[1]
    assert isinstance(task, Comparable)
    outputs = task.trivial(held_out.inputs)
    assert task.quality(outputs, held_out.targets).shape == (4,)
    outputs.requires_grad_()
    task.loss(outputs, held_out.targets).backward()
    assert outputs.grad is not None
    assert task.description
    if isinstance(task, Pictured):
        for values in (held_out.inputs, held_out.targets, outputs.detach()):
            shown = task.picture(values)
            assert shown.shape == (4, 3, *values.shape[2:])
    if isinstance(task, Accompanied):
        assert name in ("paired", "unpaired")


@pytest.mark.parametrize("name", [name for name in TASKS if name != "scenes"])
def test_an_unknown_key_and_a_missing_folder_are_told(name, tmp_path):
    factory = find_callable(name, TASKS, "task")
    with pytest.raises(BadInput, match=r"unknown key 'task\.fodler'"):
        check_arguments(factory, {"fodler": "x"}, "task")
    arguments = check_arguments(factory, {"folder": str(tmp_path / "nowhere")}, "task")
    with pytest.raises(BadInput, match=r"there is no folder .*nowhere"):
        factory(**arguments)
