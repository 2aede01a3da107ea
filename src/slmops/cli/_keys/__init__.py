"""What `slmops keys` does: one sub-verb a file (cli/_sub.py)."""
