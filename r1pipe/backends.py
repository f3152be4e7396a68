"""Settings whose class depends on the backend: a table of classes, chosen by `backend`.

A table maps the name of a backend to the full name of its settings' class, whose field `backend` is
that name. Its first entry is the default. Classes are imported when a model with such a field is
first used, so their modules import nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any, Final, Generic, TypeVar

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from r1pipe.stage import StageModel

UNKNOWN: Final = "unknown_backend"
"""The type of pydantic's error about a value that names no backend of the table."""

SettingsT = TypeVar("SettingsT", bound=StageModel)


@dataclass(frozen=True, eq=False)
class Backends(Generic[SettingsT]):
    """The annotation of a field whose class a table has: `Annotated[Base, Backends(...)]`."""

    role: str
    """Its name in messages, such as `generator`."""
    base: type[SettingsT]
    table: Mapping[str, str]

    def default(self) -> str:
        """Return the backend of settings that name none."""
        return next(iter(self.table))

    def default_settings(self) -> SettingsT:
        """Return the settings of a stage that gives none."""
        return self.settings(self.default())()

    def settings(self, backend: str) -> type[SettingsT]:
        """Return the class of a backend's settings."""
        found: type[SettingsT] = resolve_name(self.table[backend])
        assert issubclass(found, self.base), f"{found} derives from {self.base.__name__}"
        return found

    def owners(self, option: str) -> list[str]:
        """Return the backends that have an option."""
        return [name for name in self.table if option in self.settings(name).model_fields]

    def backend_of(self, value: object) -> Any:
        """Return the backend that a mapping or settings name; None for any other value."""
        if isinstance(value, Mapping):
            return value.get("backend", self.default())
        return getattr(value, "backend", None)

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.tagged_union_schema(
            {name: handler.generate_schema(self.settings(name)) for name in self.table},
            self.backend_of,
            custom_error_type=UNKNOWN,
            custom_error_message=f"backend should be one of {', '.join(self.table)}",
        )
