"""The pruning methods, one published algorithm a file: each shapes a network's channels and scores them.

`METHODS` names the settings class of each, as strings, so that listing them loads nothing.
"""

from __future__ import annotations

METHODS: dict[str, str] = {
    "decig": "compress.methods.decig:Decig",
    "greedy": "compress.methods.greedy:Greedy",
    "network-slimming": "compress.methods.network_slimming:NetworkSlimming",
    "l1": "compress.methods.plain:L1",
    "l2": "compress.methods.plain:L2",
    "fpgm": "compress.methods.plain:Fpgm",
    "norm-scale": "compress.methods.plain:NormScale",
    "taylor": "compress.methods.plain:Taylor",
    "fisher": "compress.methods.plain:Fisher",
    "random": "compress.methods.plain:Random",
    "dhp": "compress.methods.dhp:Dhp",
    "auto-pruner": "compress.methods.auto_pruner:AutoPruner",
    "dcp": "compress.methods.dcp:Dcp",
    "se": "compress.methods.squeeze_excitation:SqueezeExcitation",
    "learned-groups": "compress.methods.learned_groups:LearnedGroups",
}
