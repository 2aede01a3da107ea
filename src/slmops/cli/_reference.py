"""How verbs describe a name of the registry, and what it opens."""

from __future__ import annotations

from slmops.registry.opened import folder as folder
from slmops.registry.opened import source as source

REFERENCE = "NAME[:TAG], or sha256:... (8 digits of it do)"
