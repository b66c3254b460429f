"""Find out by halves which of many things break something."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Fails = Callable[[Sequence[str]], str | None]  # tells why things do not work together; None if they do


@dataclass
class Search:
    """A search for what breaks something.

    Attributes:
        fails: Tries things together.
        working: What was seen to work together.
        found: What breaks that, each with the reason.
    """

    fails: Fails
    working: list[str] = field(default_factory=list)
    found: dict[str, str] = field(default_factory=dict)

    def run_(self, units: Sequence[Sequence[str]]) -> None:
        """Add units of things to the working ones by halves; what breaks them by itself is found.

        Things that only break in company are found too: what is left is tried again until it works. A unit holds
        things that are alike: where it breaks with its first and with its last alone, all of it is taken to break.
        """
        if not units:
            return
        names = [name for unit in units for name in unit]
        reason = self.fails([*self.working, *names])
        if reason is None:
            self.working.extend(names)
        elif len(units) > 1:
            self.run_(units[: len(units) // 2])
            self.run_(units[len(units) // 2 :])
        elif len(names) == 1:
            self.found[names[0]] = reason
        else:
            ends = [self.fails([*self.working, name]) for name in (names[0], names[-1])]
            if None in ends:
                self.run_([[name] for name in names])
            else:
                self.found.update(dict.fromkeys(names, str(ends[0])))
