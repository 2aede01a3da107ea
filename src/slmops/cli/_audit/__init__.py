"""What `slmops audit` does: one sub-verb a file (cli/__init__.py)."""
