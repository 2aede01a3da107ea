"""slmops doctor: what this machine has, which engines can be used here, and what to type for those that cannot."""

from __future__ import annotations

import argparse
from typing import Any

HELP = "say what this machine has, which engines are installed, and how to install the ones that are missing"
EXAMPLE = "slmops doctor"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--target", metavar="NAME", help="describe a target instead of this machine (a name, or a .toml file)"
    )


def run(arguments: argparse.Namespace) -> int:
    import json

    found = facts(arguments.target)
    print(json.dumps(found, indent=1) if arguments.json else text(found))
    return 0


def facts(target: str | None = None) -> dict[str, Any]:
    """The machine, the engines, and what is wrong, as data. Bytes, and bytes a second."""
    import dataclasses
    import platform

    import slmops
    from slmops.plan import hardware, targets

    described = targets.load(target) if target is not None else None
    machine = described.machine if described is not None else hardware.detect()
    engines = [] if described is not None else _engines()
    opened = {form for one in engines for form in one["formats"]} if described is None else set(described.formats)
    return {
        "slmops": slmops.__version__,
        "python": platform.python_version(),
        "machine": dataclasses.asdict(machine),
        "formats": sorted(opened),
        "engines": engines,
        "openvino": {} if described is not None else _openvino(),
        "advice": [] if described is not None else _advice(machine, engines),
        "targets": list(targets.names()),
    }


def _openvino() -> dict[str, Any]:
    """The devices that OpenVINO names, or what keeps it from it; nothing where it is not installed."""
    from slmops.core.errors import EngineMissing, SlmopsError
    from slmops.engines import _openvino as openvino

    try:
        return {"devices": openvino.devices()}
    except EngineMissing:
        return {}
    except SlmopsError as error:
        return {"devices": {}, "fault": str(error), "cure": error.cure}


def _engines() -> list[dict[str, Any]]:
    import importlib.util

    from slmops.core import plugins
    from slmops.engines import _installed

    result = []
    for name in plugins.names("engines"):
        module, found = plugins.load("engines", name), _installed.installed(name)
        result.append(
            {
                "name": name,
                "formats": list(module.FORMATS),
                "version": found.version if found is not None else None,
                "missing": [one for one in getattr(module, "MODULES", ()) if importlib.util.find_spec(one) is None],
                "install": None if found is not None else _installed.install_command(name),
            }
        )
    return result


def _advice(machine: Any, engines: list[dict[str, Any]]) -> list[str]:
    """Sentences, each with what to do."""
    found = []
    if not any(one["version"] for one in engines):
        found.append('no engine is installed: pip install "slmops[cpu]" brings llama.cpp, ONNX Runtime and OpenVINO')
    if machine.system == "darwin" and not any(one["version"] for one in engines if one["name"] == "mlx"):
        found.append('this is a Mac, and MLX is not installed: pip install "slmops[mlx]"')
    if machine.usable < machine.memory // 4:
        found.append("three quarters of the memory are in use: models are judged by what is free, so close something first")
    if machine.disk is not None and machine.disk < 5e9:
        found.append("less than 5 GB of disk are free here: a model of 3 billion parameters in 16 bits has 6 GB")
    if machine.arch == "x86_64" and "avx2" not in machine.features:
        found.append("this processor has no AVX2: engines fall back to kernels that are several times slower")
    return found


def text(found: dict[str, Any]) -> str:
    """The facts for people."""
    from slmops.cli import _text

    machine = found["machine"]
    beside = ", ".join(
        f"{one['name']} ({one['kind']}{', ' + _text.size(one['memory']) if one['memory'] else ''})"
        for one in machine["accelerators"]
    )
    how = "measured now" if machine["measured"] else "as described"
    lines = [
        ("machine", machine["name"] if not machine["measured"] else f"{machine['system']} {machine['arch']}"),
        ("processor", f"{machine['processor']}, {machine['cores']} cores"),
        ("features", ", ".join(machine["features"]) or "none that engines have kernels for"),
        ("memory", f"{_text.size(machine['memory'])}, {_text.size(machine['usable'])} for a model"),
        ("bandwidth", f"{_text.size(machine['bandwidth'])}/s read from memory by all cores ({how})"),
        ("cache", _text.size(machine["cache"]) if machine["cache"] else ""),
        ("disk", f"{_text.size(machine['disk'])} free" if machine["disk"] else ""),
        ("accelerators", beside or "none found"),
        ("OpenVINO", _devices(found["openvino"])),
        ("slmops", f"{found['slmops']}, Python {found['python']}"),
        ("formats", ", ".join(form.replace("_", "-") for form in found["formats"])),
    ]
    parts = [_text.pairs(lines)]
    if found["engines"]:
        rows = [
            [one["name"], ", ".join(one["formats"]).replace("_", "-"), one["version"] or "-", _cure(one)]
            for one in found["engines"]
        ]
        parts.append(_text.table(["engine", "opens", "version", "to install"], rows, "llll"))
    parts += [f"! {sentence}" for sentence in found["advice"]]
    parts.append(f"targets for slmops plan --target: {', '.join(found['targets'])}")
    return "\n\n".join(parts)


def _devices(found: dict[str, Any]) -> str:
    if "fault" in found:
        return f"{found['fault']}{'; ' if found['cure'] else ''}{found['cure']}"
    return ", ".join(f"{name} ({full})" for name, full in found.get("devices", {}).items())


def _cure(engine: dict[str, Any]) -> str:
    missing = f"  (missing: {', '.join(engine['missing'])})" if engine["missing"] else ""
    return f"{engine['install']}{missing}" if engine["install"] else ""
