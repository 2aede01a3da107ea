"""Send the server requests that no client sends: never a 500, never silence, no place lost, no memory kept.

    python bench/malformed.py out/home/gguf --requests 100000 --json out/malformed.json

JSON is built from the schemas of the wire formats and then broken; heads are broken as bytes (tests/malformed.py). A third
each is sent by an admin, by a user and without a key. A run can be repeated from its seed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import psutil

# In place of this folder, whose serve.py would hide tests/serve.
sys.path[0] = str(Path(__file__).resolve().parent.parent / "tests")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="an artifact's folder")
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()

    import malformed
    from serve import guarded
    from serve.serving import serving

    routes = [(method, route.path) for route in guarded.built(None).routes for method in sorted(route.methods)]
    rows, memory, began = [], [], time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SLMOPS_HOME"] = folder
        file = guarded.keys_file(Path(folder))
        words = (f"home={arguments.model}", "--keys", file, "--context", "128", "--queue", "512")
        with serving(*words) as (url, process):
            port, own = int(url.rsplit(":", 1)[1]), psutil.Process(process.pid)
            size = max(1, arguments.requests // 30)
            for number in range(30):
                role = ("admin", "user", None)[number % 3]
                key = guarded.KEYS[role] if role else None
                maker = malformed.Maker(arguments.seed * 1000 + number, routes, key, "home")
                rows.append(asyncio.run(malformed.attack(port, (maker.request() for _ in range(size)), arguments.at_once)))
                memory.append(own.memory_info().rss)
                print(
                    f"{sum(row.sent for row in rows):7} sent, {memory[-1] >> 20} MiB, {rows[-1].statuses}", file=sys.stderr
                )
            asked = urllib.request.Request(f"{url}/slmops/models", headers={"X-Api-Key": guarded.KEYS["admin"]})
            for _ in range(100):
                (state,) = json.loads(urllib.request.urlopen(asked).read())
                if not state["waiting"] and not state.get("running"):
                    break
                time.sleep(0.1)
            alive = process.poll() is None
            places = state["waiting"] + (state.get("running") or 0)
    faults = [fault for row in rows for fault in row.faults]
    statuses = sum((row.statuses for row in rows[1:]), rows[0].statuses)
    facts = {
        "sent": sum(row.sent for row in rows), "statuses": dict(sorted(statuses.items())), "faults": faults[:20],
        "slowest_s": round(max(row.slowest for row in rows), 2), "alive": alive, "places_taken": places,
        "memory_mib": [one >> 20 for one in memory], "seconds": round(time.monotonic() - began),
    }  # fmt: skip
    text = json.dumps(facts, indent=1)
    print(text)
    if arguments.json:
        Path(arguments.json).write_text(text + "\n")
    # The first rounds fill caches and the allocator's arenas.
    grown = memory[-1] - memory[9]
    return 0 if alive and not places and not faults and grown < 32 << 20 else 1


if __name__ == "__main__":
    raise SystemExit(main())
