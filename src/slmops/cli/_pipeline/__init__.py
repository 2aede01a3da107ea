"""What `slmops pipeline` does: one sub-verb a file (cli/_sub.py)."""
