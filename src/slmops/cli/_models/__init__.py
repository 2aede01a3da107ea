"""What `slmops models` does: one sub-verb a file (cli/__init__.py)."""
