"""Reproduce the DeepSeek-R1 recipe from one declarative manifest."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from r1pipe.api.project import Project, load
    from r1pipe.api.results import Result, Results, open_store

__version__ = "0.1.0"
__all__ = ["Project", "Result", "Results", "load", "open_store"]

PLACES = {
    **dict.fromkeys(("Project", "load"), "r1pipe.api.project"),
    **dict.fromkeys(("Result", "Results", "open_store"), "r1pipe.api.results"),
}
"""Name of the Python API -> the module that has it, loaded when the name is asked for."""


def __getattr__(name: str) -> object:
    """Return a name of the Python API."""
    if name not in PLACES:
        raise AttributeError(f"module 'r1pipe' has no attribute '{name}'")
    return getattr(import_module(PLACES[name]), name)
