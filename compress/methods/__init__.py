"""The pruning methods, one published algorithm a file: each shapes a network's channels and scores them.

`METHODS` names the settings class of each, as strings, so that listing them loads nothing.
"""

from __future__ import annotations

METHODS: dict[str, str] = {
    "decig": "compress.methods.decig:Decig",
    "dcp": "compress.methods.dcp:Dcp",
}
