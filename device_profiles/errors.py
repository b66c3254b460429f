"""What a user can fix: errors whose message is one line and whose exit code a command returns."""

from __future__ import annotations


class ToolkitError(Exception):
    """A mistake that the user can mend; shown as one line without a traceback.

    The message says what was given (name and value), what is allowed, and what to do next.
    """

    exit_code = 2


class BadInput(ToolkitError, ValueError):
    """A wrong name, shape, value, file or recipe key."""


class Unwritable(BadInput):
    """A place where nothing can be written."""


class RuntimeUnavailable(ToolkitError, ImportError):
    """The runtime or the device it needs is not on this machine."""


class UnsupportedModel(ToolkitError, NotImplementedError):
    """A network holds something that this toolkit or the runtime cannot handle."""


class ProfileMismatch(ToolkitError, ValueError):
    """A device profile belongs to another machine, runtime, network or schema."""


class BudgetInfeasible(ToolkitError, ValueError):
    """No choice of widths reaches the latency that was asked for."""


class ParityFailed(ToolkitError, ValueError):
    """Two networks that must compute the same function do not."""

    exit_code = 3
