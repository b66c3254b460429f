from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from compress.tasks.pictures import Pictures, find_folder, list_pictures, read_picture, to_bytes, to_unit
from device_profiles.errors import BadInput
from tests.compress.tasks.files import truncate, write_picture


def test_pictures_are_listed_by_name_and_other_files_left_out(tmp_path):
    for name in ("b.png", "a.JPG", "a/c.bmp"):
        write_picture(tmp_path / name, 8, 8)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "._a.png").write_text("what macOS leaves behind")
    assert [path.name for path in list_pictures(tmp_path)] == ["a.JPG", "b.png"]
    assert len(list_pictures(tmp_path, deep=True)) == 3


def test_missing_and_empty_folders_are_told_by_name(tmp_path):
    with pytest.raises(BadInput, match=r"there is no folder .*nowhere"):
        list_pictures(tmp_path / "nowhere")
    with pytest.raises(BadInput, match="holds no pictures"):
        list_pictures(tmp_path)
    with pytest.raises(BadInput, match="has no folder named val or test"):
        find_folder(tmp_path, ("val", "test"))
    with pytest.raises(BadInput, match=r"there is no folder .*nowhere"):
        find_folder(tmp_path / "nowhere", ("val", "test"))


def test_colour_grey_palette_and_16_bit_files_become_the_channels_asked_for(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (5, 7), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "grey.png")
    Image.fromarray(values.astype(np.uint16) * 256 + 77).save(tmp_path / "deep.png")
    Image.fromarray(values).convert("P").save(tmp_path / "palette.png")
    Image.fromarray(np.dstack([values] * 3 + [values // 2])).save(tmp_path / "transparent.png")
    expected = torch.from_numpy(values)
    for name in ("grey", "deep", "palette", "transparent"):
        colour = read_picture(tmp_path / f"{name}.png")
        assert colour.shape == (3, 5, 7)
        assert all(torch.equal(channel, expected) for channel in colour), name
        assert torch.equal(read_picture(tmp_path / f"{name}.png", channels=1), expected[None])


def test_a_file_that_is_no_picture_is_told_by_name(tmp_path):
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(BadInput, match=r"text\.png cannot be read"):
        read_picture(tmp_path / "text.png")
    with pytest.raises(BadInput, match=r"text\.png cannot be read"):
        Pictures([tmp_path / "text.png"], read_picture, limit_bytes=0)
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(BadInput, match=r"float\.tif holds floating-point"):
        read_picture(tmp_path / "float.tif")
    Image.fromarray(np.full((4, 4), 70_000, np.int32)).save(tmp_path / "wide.tif")
    with pytest.raises(BadInput, match=r"wide\.tif cannot be read .*more than 16 bits"):
        read_picture(tmp_path / "wide.tif")


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_truncated_picture_is_found_before_training_starts(tmp_path, suffix):
    paths = [write_picture(tmp_path / f"{n}.{suffix}", 64, 64, seed=n) for n in range(3)]
    truncate(paths[1])
    with pytest.raises(BadInput, match=rf"1\.{suffix} cannot be read"):
        Pictures(paths, read_picture)


def test_a_picture_smaller_than_needed_is_told_with_its_size(tmp_path):
    paths = [write_picture(tmp_path / "large.png", 32, 32), write_picture(tmp_path / "small.png", 32, 16)]
    with pytest.raises(BadInput, match=r"small\.png is 16 x 32 pixels; 24 x 24 are needed"):
        Pictures(paths, read_picture, smallest=24)


def test_pictures_are_decoded_once_up_to_the_limit_and_the_same_beyond_it(tmp_path):
    paths = [write_picture(tmp_path / f"{n:03}.png", 8, 8, seed=n) for n in range(130)]
    decoded = []

    def decode(path):
        decoded.append(path)
        return read_picture(path)

    everything = Pictures(paths, decode)
    assert len(decoded) == len(everything) == 130
    assert [torch.equal(everything[n], read_picture(paths[n])) for n in (0, 129)] == [True, True]
    assert len(decoded) == 130
    some = Pictures(paths, decode, limit_bytes=100)  # reached after the first 64 pictures
    assert len(decoded) == 194
    assert torch.equal(some[129], everything[129])
    assert torch.equal(some[0], everything[0])
    assert len(decoded) == 195


def test_bytes_survive_the_way_to_numbers_and_back():
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_bytes(to_unit(every)), every)
    assert to_bytes(torch.tensor([-3.0, 7.0])).tolist() == [0, 255]
