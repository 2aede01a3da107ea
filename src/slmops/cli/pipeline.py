"""slmops pipeline: steps in a file, each remembered, with references between them. Its sub-verbs are in _pipeline/."""

HELP = "run, check and begin pipelines: steps in a YAML file, each remembered, with references between them"
EXAMPLE = "slmops pipeline run home.yaml --set quantize=q8"
ROOM = "cli._pipeline"
