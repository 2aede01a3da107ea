"""What `slmops pipeline` does: one sub-verb a file (cli/__init__.py)."""
