"""How every command ends: exit codes, and one line for what the user can mend."""

from __future__ import annotations

import sys
from collections.abc import Callable

from device_profiles.errors import ToolkitError

INTERRUPTED = 130  # the shell's convention for a process ended by Ctrl-C


def run(main: Callable[[], int | None]) -> None:
    """Run a command's `main` and exit with its code.

    A `ToolkitError` becomes one line on stderr and the error's own exit code (2: the input, 3: a failed
    check); so does a full disk or an unreadable file. Anything else is our bug: the traceback stays and
    Python exits with 1.
    """
    try:
        sys.exit(main() or 0)
    except ToolkitError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        print(f"error: {error.strerror or error}: {error.filename or ''}".rstrip(": "), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; start the same command again to resume", file=sys.stderr)
        sys.exit(INTERRUPTED)
