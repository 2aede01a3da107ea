"""What `slmops audit` does: one sub-verb a file (cli/_sub.py)."""
