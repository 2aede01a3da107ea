"""The house rules that a machine can check."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

import slmops
from slmops.core import errors, plugins

ROOT = Path(slmops.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
TESTS = Path(__file__).parent
LEVELS = {
    "core": 0,
    "architectures": 1, "ops": 1, "quantize": 1,
    "formats": 2, "passes": 2, "engines": 2,
    "plan": 3, "source": 3, "probes": 3, "stream": 3, "catalogues": 4,
    "prove": 4, "forecast": 4, "calibrated": 4, "executors": 4, "compile": 5, "run": 5, "search": 5,
    "measure": 6, "registry": 6,
    "demo": 7, "trials": 7, "pruning": 7, "train": 7, "pytest_checks": 7, "obtain": 7, "create": 7, "optimize": 8,
    "serve": 8, "operate": 8, "deploy": 8, "compat": 8,
    "pipeline": 9, "library": 9, "cli": 10, "__main__": 11, "__init__": 11,
}  # fmt: skip
SIBLINGS_APART = ("architectures", "formats", "engines", "passes", "deploy")
# A heavy library is imported in the files that own it, and nowhere else.
OWNERS = {
    "torch": {"engines/transformers.py", "ops/torch.py"},
    "transformers": {"engines/transformers.py"},
    "onnx": {"formats/onnx.py", "formats/_onnx_data.py", "formats/_onnx_graph.py", "formats/_onnx_read.py"},
    "onnxruntime": {"formats/_lora.py"},
    "onnxruntime_genai": {"engines/onnxruntime.py"},
    "openvino": None,
    "openvino_genai": None,
    "xllamacpp": None,
    "llguidance": {"engines/_masks.py"},
    "mlx": None,
    "mlx_lm": None,
    "jsonschema": {"measure/scorers/json.py", "pipeline/schema.py", "registry/policy.py"},
    "httpx2": {"registry/_http.py", "serve/upstream/client.py"},
    "lm_eval": {"measure/harness.py"},
    "model_signing": {"registry/signing.py"},
    "cryptography": {"registry/signing.py"},
    "jwt": {"serve/tokens.py"},
    "pytest": {"pytest_checks.py"},
    "pydantic": {"serve/wire/"},
    "starlette": {"serve/"},
    "uvicorn": {"cli/serve.py", "serve/connection.py"},
    "prometheus_client": {"serve/metrics.py"},
    "opentelemetry": {"serve/telemetry.py"},
}


def room(path: Path) -> str:
    inside = path.relative_to(ROOT)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


@functools.cache
def imports(path: Path) -> list[tuple[str, bool]]:
    """(module, at top level) of every import in a file."""
    tree = ast.parse(path.read_text())
    top = {id(node) for node in tree.body}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names] if node.module.startswith("slmops") else []
            found += [(name, id(node) in top) for name in names or [node.module]]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down_only(path: Path) -> None:
    own = room(path)
    for module, _ in imports(path):
        parts = module.split(".")
        if parts[0] != "slmops" or len(parts) < 2 or parts[1] not in LEVELS or own in ("__init__", "__main__"):
            continue
        other = parts[1]
        assert LEVELS[other] <= LEVELS[own], f"{path} imports {module}, which stands above it"
        if LEVELS[other] == LEVELS[own] and other != own:
            # Rooms of one level know each other only where the design says so.
            allowed = {("architectures", "ops"), ("compile", "run"), ("probes", "source"), ("create", "obtain")}
            assert (own, other) in allowed, f"{path} imports {module} of a room beside it"
        if other == own and own in SIBLINGS_APART and len(parts) > 2 and (ROOT / own / f"{parts[2]}.py").exists():
            assert parts[2].startswith("_"), f"{path} imports its sibling {module}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_stay_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 420


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_heavy_libraries_stay_with_their_owner(path: Path) -> None:
    place = path.relative_to(ROOT).as_posix()
    for module, top in imports(path):
        library = module.split(".")[0]
        if library not in OWNERS:
            continue
        owners = OWNERS[library]
        if owners is None:
            assert library.split("_")[0].removeprefix("x")[:6] in place.replace("_", ""), f"{place} imports {library}"
        else:
            # A folder owns what all of its files are written in.
            assert place.startswith(tuple(owners)), f"{place} imports {library}"
        assert not (top and place.startswith("engines/")), f"{place} imports {library} before it is asked to open"


def test_every_error_has_its_own_exit_code() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.SlmopsError)]
    codes = [kind.exit_code for kind in kinds]
    assert len(set(codes)) == len(codes) == 17
    for kind in kinds:
        assert kind.__name__ in (errors.__doc__ or "")


@pytest.mark.parametrize("name", plugins.names("cli"))
def test_every_verb_explains_itself(name: str) -> None:
    verb = plugins.load("cli", name)
    assert verb.HELP and verb.EXAMPLE.startswith(f"slmops {name}")


@pytest.mark.parametrize("name", plugins.names("engines"))
def test_every_engine_says_what_it_can(name: str) -> None:
    engine = plugins.load("engines", name)
    known = {"logits", "generate", "encode", "render", "parallel", "turns", "embed", "adapt"}
    assert set(engine.CAN) <= known and "generate" in engine.CAN
    assert set(engine.FORMATS) <= set(plugins.names("formats"))
    assert engine.MODULES is not None and engine.PACKAGE is not None and callable(engine.open)


@pytest.mark.parametrize("name", plugins.names("architectures"))
def test_every_family_is_complete(name: str) -> None:
    family = plugins.load("architectures", name)
    spec = family.spec(family.TOY)
    assert spec.family == name == family.TOY["model_type"]
    assert set(family.names(spec)) == set(family.shapes(spec))
    assert isinstance(family.GGUF, str | None) and isinstance(family.MLX, str | None)


def unbounded(call: ast.Call) -> bool:
    """Whether a call of the tests can wait for ever, or run Python between fork and exec."""
    owner, _, name = ast.unparse(call.func).rpartition(".")
    given = {one.arg for one in call.keywords}
    if name == "Popen" or (owner == "subprocess" and name[0].islower()):
        return "preexec_fn" in given or (name != "Popen" and not given & {"timeout", None})
    if name in {"urlopen", "communicate"}:
        return "timeout" not in given
    return name in {"wait", "join"} and not call.args and not given


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda path: path.relative_to(TESTS).as_posix())
def test_no_test_waits_for_ever(path: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert not [f"line {call.lineno}: {ast.unparse(call)}" for call in calls if unbounded(call)]
