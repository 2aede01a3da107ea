"""The answer is JSON (RFC 8259: no NaN, no name twice), fits `schema` and is the value `expected`, each where it is given.

The value is compared as a value: the order of names and blanks do not matter, 1 and 1.0 are equal, 1 and true are not.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from slmops.core.errors import UsageError
from slmops.measure import scorers
from slmops.measure.scorers import _bounded

KEYS, OPTIONAL = (), ("expected", "schema")
METRICS = ("json", "valid")
CHECK = """import json, sys, jsonschema, referencing
schema, value = json.load(sys.stdin)
sys.exit(0 if jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)(
    schema, registry=referencing.Registry()).is_valid(value) else 3)"""


def make(keys: scorers.Keys) -> Callable[[str], scorers.Marks]:
    fits = _fits(keys["schema"]) if "schema" in keys else None
    wanted = [_comparable(keys["expected"])] if "expected" in keys else None

    def score(answer: str) -> scorers.Marks:
        try:
            value = json.loads(answer, parse_constant=_refused, object_pairs_hook=_once)
            valid = fits is None or fits(value)
            same = wanted is None or _comparable(value) in wanted
        except (ValueError, RecursionError):
            return {"json": 0.0, "valid": 0.0}
        return {"json": float(valid and same), "valid": float(valid)}

    return score


def _fits(schema: Any) -> Callable[[Any], bool]:
    """Whether a value fits a JSON Schema (2020-12 unless it says another draft). Nothing that it refers to is fetched."""
    try:
        import jsonschema
        import referencing
    except ImportError:
        raise UsageError("a case has a JSON Schema, and jsonschema is not installed", "pip install jsonschema") from None
    if not isinstance(schema, dict | bool):
        raise ValueError("'schema' must be a JSON Schema")
    kind = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
        if '"pattern' in json.dumps(schema):  # pattern, patternProperties: see _bounded
            return lambda value: _bounded.call(CHECK, schema, value, what="the pattern in the JSON Schema")
        validator = kind(schema, registry=referencing.Registry())
        validator.is_valid(None)
    except (jsonschema.SchemaError, referencing.exceptions.Unresolvable, RecursionError) as error:
        raise ValueError(f"'schema' is no JSON Schema: {str(error).splitlines()[0]}") from None

    def fits(value: Any) -> bool:
        try:
            return bool(validator.is_valid(value))
        except referencing.exceptions.Unresolvable as error:
            raise UsageError(f"the JSON Schema refers to what is not in it: {error}", "put it under $defs") from None

    return fits


def _comparable(value: Any) -> Any:
    """Python holds True for 1; here they differ."""
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, dict):
        return {name: _comparable(one) for name, one in value.items()}
    return [_comparable(one) for one in value] if isinstance(value, list) else value


def _refused(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found
