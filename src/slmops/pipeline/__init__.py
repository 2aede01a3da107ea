"""Pipelines: a YAML file of steps, each remembered, with references between them (docs/pipelines.md).

schema.py       the JSON schema of such files, made of the steps' own; what it finds wrong, in words
document.py     a file as a Pipeline: parameters put in, references checked before anything runs
desk.py         what a step works with: the registry, paths, models, artifacts
records.py      what steps made before
running.py      order, memory, executors, the receipt of the whole
steps/          one kind of step a file
templates/      pipelines to begin with, and a GitHub Actions workflow
"""
