"""Things that are described in a TOML file each, ours beside the code and the user's own in a folder of theirs.

Used for machines (plan/targets) and models (plan/models): a file in the folder is found because it is there, and the
user's own stands before ours of the same name.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slmops.core.errors import CorruptInput, UsageError


@dataclass(frozen=True)
class Shelf:
    """A kind of thing: what it is called, where ours lie, what a file must and may say, and where that is written."""

    kind: str
    """targets or models: the name of the folders too."""
    ours: Path
    keys: Mapping[str, Any]
    """Key of the file -> type (or types) of its value."""
    optional: tuple[str, ...]
    manual: str

    @property
    def own(self) -> Path:
        """The folder of the user's own."""
        home = os.environ.get("SLMOPS_HOME")
        if home:
            return Path(home) / self.kind
        return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "slmops" / self.kind

    def names(self) -> tuple[str, ...]:
        """All that are described, the user's own too."""
        return tuple(sorted({path.stem for folder in (self.ours, self.own) for path in folder.glob("*.toml")}))

    def find(self, name: str) -> Path:
        """The file of this name, the user's own before ours, or the .toml file of this path. Raises UsageError."""
        if name.endswith(".toml"):
            if not Path(name).is_file():
                raise UsageError(f"there is no file {name}", f"see {self.manual} for what it holds")
            return Path(name)
        if name not in self.names():
            cure = f"one of: {', '.join(self.names())}; or a .toml file of yours"
            raise UsageError(f"there is no {self.kind.removesuffix('s')} called {name!r}", cure)
        places = [folder / f"{name}.toml" for folder in (self.own, self.ours)]
        return next(path for path in places if path.is_file())

    def read(self, path: Path) -> dict[str, Any]:
        """What the file says, its keys and their types checked. Raises CorruptInput."""
        try:
            said = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise CorruptInput(f"{path}: {error}", f"see {self.manual} for what it holds") from None
        for key, value in said.items():
            wanted = self.keys.get(key)
            # bool is an int to Python, and no number here.
            if wanted is None or not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
                raise CorruptInput(
                    f"{path}: {key} is not known, or not a {wanted or str}", f"known are: {', '.join(self.keys)}"
                )
        if missing := [key for key in self.keys if key not in said and key not in self.optional]:
            raise CorruptInput(f"{path} does not say {', '.join(missing)}", f"see {self.manual} for what it holds")
        return said
