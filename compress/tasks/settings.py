"""The settings of a task, checked where it is made: every field of its dataclass against its own annotation."""

from __future__ import annotations

import typing
from dataclasses import fields
from typing import Any

from pydantic import TypeAdapter, ValidationError

from device_profiles.errors import BadInput


def check_settings_(task: Any) -> None:
    """Check each field of a dataclass against its annotation and convert it to that type, a string to a path.

    A task calls this first in `__post_init__`. (A pydantic dataclass would turn the errors of its data into its own.)

    Raises:
        BadInput: A field has a wrong type or is out of range.
    """
    hints = typing.get_type_hints(type(task), include_extras=True)
    for field in (each for each in fields(task) if each.init):
        value = getattr(task, field.name)
        try:
            setattr(task, field.name, TypeAdapter(hints[field.name]).validate_python(value))
        except ValidationError as error:
            problem = error.errors()[0]["msg"].lower()
            raise BadInput(f"{field.name} (={value!r}) of the task is wrong: {problem}; change it") from error
