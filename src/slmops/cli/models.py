"""slmops models: the registry of what was made and fetched: names, bytes, lineage, health. Its sub-verbs are in _models/."""

HELP = "the registry: add, list, show, name and remove artifacts; check, clean, export and import them"
EXAMPLE = "slmops models ls"
ROOM = "cli._models"
