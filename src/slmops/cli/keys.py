"""slmops keys: who may ask a server, and how much. Its sub-verbs are in _keys/."""

HELP = "the keys of a server: make, list, revoke and rotate them"
EXAMPLE = "slmops keys list --keys keys.yaml"
ROOM = "cli._keys"
