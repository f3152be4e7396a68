"""One check of the doctor and its result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "note", "warning", "error"]


@dataclass(frozen=True)
class Check:
    """A check: its subject, what was found, what is needed, and advice.

    `error`: the core does not work. `warning`: it works, but worse than it could or not with every
    engine. `note`: nothing is wrong, but worth knowing. `advice` is empty where nothing is to do.
    """

    group: str
    name: str
    status: Status
    found: str
    wanted: str = ""
    advice: str = ""
