from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from compress.arguments import build, check_arguments, find_callable
from device_profiles.errors import BadInput


def load(folder: Path, size: int = 8, *, mode: Literal["a", "b"] = "a"):
    return folder, size, mode


class Loader:
    def __init__(self, folder: str, schema: int = 1):
        pass


def open_ended(size: int = 1, **rest):
    pass


def test_arguments_are_converted_to_the_signatures_types():
    assert check_arguments(load, {"folder": "x", "size": "12"}, "task") == {"folder": Path("x"), "size": 12}


def test_a_class_is_checked_by_its_initialiser_whatever_its_arguments_are_called():
    assert check_arguments(Loader, {"folder": "x", "schema": 3}, "task") == {"folder": "x", "schema": 3}


def test_a_callable_that_takes_anything_is_given_anything():
    assert check_arguments(open_ended, {"size": 2, "colour": "red"}, "task") == {"size": 2, "colour": "red"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"folder": "x", "sise": 3}, r"unknown key 'task\.sise'; allowed here: folder, size, mode"),
        ({}, r"the key 'task\.folder' is missing; add it"),
        ({"folder": "x", "size": "big"}, r"task\.size \(='big'\): input should be a valid integer"),
        ({"folder": "x", "mode": "c"}, r"task\.mode \(='c'\): input should be 'a' or 'b'"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(BadInput, match=message):
        check_arguments(load, arguments, "task")


def test_a_name_that_is_neither_bundled_nor_a_reference_is_refused_with_what_there_is():
    with pytest.raises(BadInput, match=r"task\.name \(='scenez'\) is not bundled; bundled are scenes; or give"):
        find_callable("scenez", {"scenes": "compress.tasks.scene_translation:SceneTranslation"}, "task")


def of_even_width(width: int = 8):
    if width % 2:
        raise ValueError("the width must be even")
    return width


def test_what_a_callable_refuses_is_wrong_input():
    assert build(of_even_width, {"width": "6"}, "model") == 6
    with pytest.raises(BadInput, match=r"model cannot be made with \(width=7\): the width must be even"):
        build(of_even_width, {"width": 7}, "model")


def test_a_callable_without_a_signature_is_refused():
    with pytest.raises(BadInput, match=r"model\.name: no signature found .*written in Python"):
        check_arguments(dict, {}, "model")
