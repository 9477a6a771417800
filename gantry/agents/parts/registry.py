"""Look up classes that a registry names as text, so that listing them imports neither their modules nor PyTorch."""

import importlib
from collections.abc import Mapping
from typing import Any

from gantry.errors import GantryError, nearest


def registered_class(kind: str, name: str, registry: Mapping[str, str]) -> Any:
    """Import and return the class registered under a name, in upper or lower case.

    Args:
        kind: what the registry holds, for the message: "agent", "optimizer".
        name: the name to look up.
        registry: name → "module:Class".

    Raises:
        GantryError: nothing has that name; the message suggests the nearest names.
    """
    location = registry.get(name.lower())
    if location is None:
        raise GantryError(f"no {kind} is called {name!r}{nearest(name, registry)}")
    module, _, attribute = location.partition(":")
    return getattr(importlib.import_module(module), attribute)
