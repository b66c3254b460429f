from __future__ import annotations

import pickle

import pytest
import safetensors.torch
import torch
from torch import nn

from compress.weights import load_weights_
from device_profiles.errors import BadInput


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt"])
def test_weights_come_back_as_they_were_saved(tmp_path, name):
    saved, loaded = nn.Linear(3, 2), nn.Linear(3, 2)
    save = safetensors.torch.save_file if name.endswith("safetensors") else torch.save
    save(saved.state_dict(), tmp_path / name)
    load_weights_(loaded, tmp_path / name)
    assert torch.equal(saved.weight, loaded.weight)
    assert torch.equal(saved.bias, loaded.bias)


class Harmful:
    """What a pickle could do; nothing of it must run."""

    def __reduce__(self):
        return (pytest.fail, ("code in a file of weights was run",))


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("none.pt", lambda path: None, "there is no such file"),
        ("x.safetensors", lambda path: path.write_bytes(b"\0" * 40), "cannot be read"),
        ("x.pt", lambda path: path.write_bytes(b"not a file of weights"), "cannot be read"),
        ("x.pt", lambda path: path.write_bytes(b""), "cannot be read"),
        ("x.pt", lambda path: path.write_bytes(b"hello world"), "cannot be read"),
        ("x.pt", lambda path: torch.save(nn.Linear(3, 2), path), "cannot be read"),
        ("x.pt", lambda path: path.write_bytes(pickle.dumps({"weight": Harmful()}, protocol=2)), "cannot be read"),
        ("x.pt", lambda path: torch.save([torch.zeros(2)], path), "hold no state dict"),
        ("x.pt", lambda path: torch.save({"weight": torch.zeros(5, 3)}, path), "do not fit the network"),
    ],
)
def test_weights_that_cannot_be_used_are_refused_in_one_line(tmp_path, name, write, message):
    write(tmp_path / name)
    with pytest.raises(BadInput, match=message) as error:
        load_weights_(nn.Linear(3, 2), tmp_path / name)
    assert "\n" not in str(error.value)
