"""Runs a program and ends it when standard input closes: no server outlives the worker that started it, however that dies.

    python -I _keeper.py PROGRAM ARGUMENTS...

Prints the program's process id, then exits with its code when it ends (128 + n after signal n). Stands alone on purpose.
"""

import os
import subprocess
import sys
import threading


def main() -> None:
    process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=sys.stderr)
    print(process.pid, flush=True)

    def watch() -> None:
        sys.stdin.buffer.read()
        process.kill()

    threading.Thread(target=watch, daemon=True).start()
    code = process.wait()
    os._exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
