"""Runs a program and ends it when standard input closes: no server outlives the worker that started it, however that dies.

    python -I _keeper.py PROGRAM ARGUMENTS...

Prints the program's process id, then exits with its code when it ends (128 + n after signal n). Where the keeper itself is
killed, the program goes with it (on Linux). Stands alone on purpose.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading

PR_SET_PDEATHSIG = 1


def main() -> None:
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def bound() -> None:
        if libc is not None:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=sys.stderr, preexec_fn=bound)
    print(process.pid, flush=True)

    def watch() -> None:
        sys.stdin.buffer.read()
        process.kill()

    threading.Thread(target=watch, daemon=True).start()
    code = process.wait()
    os._exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
