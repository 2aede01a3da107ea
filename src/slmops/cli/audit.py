"""slmops audit: the log of who asked a server for what. Its sub-verbs are in _audit/."""

HELP = "the audit log of a server: verify, search and export it"
EXAMPLE = "slmops audit verify audit"
ROOM = "cli._audit"
