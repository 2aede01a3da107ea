"""What `slmops models` does: one sub-verb a file (cli/_sub.py)."""
