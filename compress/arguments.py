"""What a recipe names, "package.module:callable" or a bundled name, with its arguments checked by its signature."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any, NotRequired, Required

from pydantic import ConfigDict, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from compress.models import import_callable
from device_profiles.errors import BadInput, ToolkitError

UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
MISSING = ("missing", "missing_argument", "missing_keyword_only_argument")


def find_callable(name: str, table: Mapping[str, str], section: str) -> Callable[..., Any]:
    """Import what a recipe names.

    Args:
        name: A key of the table, or "package.module:callable".
        table: Bundled name -> "package.module:callable".
        section: Of the recipe, for the error.

    Raises:
        BadInput: It is neither, or cannot be imported.
    """
    if name in table or ":" in name:
        return import_callable(table.get(name, name))
    bundled = ", ".join(table)
    raise BadInput(f"{section}.name (={name!r}) is not bundled; bundled are {bundled}; or give module:callable")


def check_arguments(factory: Callable[..., Any], arguments: Mapping[str, Any], section: str) -> dict[str, Any]:
    """Check keyword arguments against a callable's signature and return them converted to its types.

    Raises:
        BadInput: One is unknown, missing or of the wrong type, or the callable has no signature.
    """
    try:
        adapter = TypeAdapter(_typed_arguments(factory))
    except ValueError as error:
        raise BadInput(f"{section}.name: {error}; name a function or class that is written in Python") from error
    try:
        return dict(adapter.validate_python(dict(arguments)))
    except ValidationError as error:
        raise BadInput(first_problem(error, section, list(inspect.signature(factory).parameters))) from error


def build(factory: Callable[..., Any], arguments: Mapping[str, Any], section: str) -> Any:
    """Call what a recipe names with checked arguments.

    Raises:
        BadInput: An argument is unknown, missing or of the wrong type, or the callable refuses its value.
    """
    checked = check_arguments(factory, arguments, section)
    try:
        return factory(**checked)
    except ToolkitError:
        raise
    except ValueError as error:
        given = ", ".join(f"{name}={value!r}" for name, value in checked.items())
        raise BadInput(f"{section} cannot be made with ({given}): {error}") from error


def construct(settings: Callable[..., Any], arguments: Mapping[str, Any], section: str) -> Any:
    """Call a settings class, most of which check themselves.

    Raises:
        BadInput: An argument is unknown, missing or out of range.
    """
    try:
        return settings(**arguments)
    except ValidationError as error:
        raise BadInput(first_problem(error, section, list(inspect.signature(settings).parameters))) from error
    except TypeError:
        check_arguments(settings, arguments, section)
        raise


def first_problem(error: ValidationError, section: str, allowed: typing.Sequence[str]) -> str:
    """Put the most telling problem of a validation into one line.

    Args:
        error: What was raised.
        section: Where in the recipe; empty for its top.
        allowed: The names that exist there.
    """
    problem = min(error.errors(), key=lambda each: each["type"] not in UNKNOWN)  # a misspelt key is a missing one too
    key = ".".join(str(part) for part in ((section,) if section else ()) + problem["loc"])
    if problem["type"] in UNKNOWN:
        return f"unknown key {key!r}; allowed here: {', '.join(allowed)}"
    if problem["type"] in MISSING:
        return f"the key {key!r} is missing; add it"
    ours = problem["type"] == "value_error"  # raised by a validator of this toolkit, in a sentence of its own
    message = str(problem["ctx"]["error"]) if ours else problem["msg"].lower()
    if isinstance(problem["input"], str | int | float | list | tuple):  # a whole table says nothing
        key = f"{key} (={problem['input']!r})"
    return f"{key}: {message}" if key else message


def _typed_arguments(factory: Callable[..., Any]) -> Any:
    """Turn a signature into a type: one key a parameter."""
    parameters = inspect.signature(factory).parameters
    try:
        hints = typing.get_type_hints(factory.__init__ if inspect.isclass(factory) else factory)
    except (NameError, TypeError):  # an annotation that only a type checker can resolve: the callable has to check
        hints = {}
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    keys = {
        name: (Required if parameter.default is parameter.empty else NotRequired)[hints.get(name, Any)]
        for name, parameter in parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    typed = TypedDict("Arguments", keys)  # type: ignore[operator, misc]
    typed.__pydantic_config__ = ConfigDict(extra="allow" if open_ended else "forbid", arbitrary_types_allowed=True)
    return typed
