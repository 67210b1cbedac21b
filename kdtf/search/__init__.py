"""Architecture search: `kdtf.search(build, space, objective)`.

The room is the verb: this module can be called, whatever was imported first.
"""

import inspect
import sys
import types
from typing import Any

from kdtf.search.evolution import Evolution
from kdtf.search.latency_model import LatencyModel
from kdtf.search.objective import DeviceObjective
from kdtf.search.optuna_strategies import Nsga2
from kdtf.search.optuna_strategies import Tpe
from kdtf.search.reinforcement import Reinforcement
from kdtf.search.result import SearchResult
from kdtf.search.searching import search
from kdtf.search.shortlists import shortlist
from kdtf.search.space import Choice
from kdtf.search.space import Space
from kdtf.search.spaces import Preset
from kdtf.search.spaces import cnns
from kdtf.search.spaces import compressions
from kdtf.search.spaces import decoders
from kdtf.search.spaces import encoders
from kdtf.search.spaces import shrinkings
from kdtf.search.strategies import Measured
from kdtf.search.strategies import RandomSearch
from kdtf.search.strategies import Strategy
from kdtf.search.trial import Infeasible
from kdtf.search.trial import RunningTrial
from kdtf.search.trial import Trial

__all__ = [
    "Choice",
    "DeviceObjective",
    "Evolution",
    "Infeasible",
    "LatencyModel",
    "Measured",
    "Nsga2",
    "Preset",
    "RandomSearch",
    "Reinforcement",
    "RunningTrial",
    "SearchResult",
    "Space",
    "Strategy",
    "Tpe",
    "Trial",
    "cnns",
    "compressions",
    "decoders",
    "encoders",
    "search",
    "shortlist",
    "shrinkings",
]


class _Room(types.ModuleType):
    """A module that is called as its main function."""

    __call__: Any = staticmethod(search)
    # Else `help` takes the first argument for the module itself.
    __signature__ = inspect.signature(search)


sys.modules[__name__].__class__ = _Room
