"""What verbs print for people."""

import os
import pty
import subprocess
import sys

SCRIPT = r"from slmops.cli import _text; _text.answer('a\tb\nc\x1b[2J\x9b31m\rd\x07é\u200d'); print()"


def test_an_answer_is_no_command_to_a_terminal() -> None:
    """A control sequence of ECMA-48 begins with ESC or CSI (0x9b); the rest of Unicode is text."""
    ours, theirs = pty.openpty()
    try:
        subprocess.run([sys.executable, "-X", "utf8", "-c", SCRIPT], stdout=theirs, check=True, timeout=60)
        assert os.read(ours, 1000).decode() == "a\tb\r\nc?[2J?31m?d?é\u200d\r\n"
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_pipe_is_given_the_whole_answer() -> None:
    piped = subprocess.run([sys.executable, "-X", "utf8", "-c", SCRIPT], capture_output=True, check=True, timeout=60)
    assert piped.stdout.decode() == "a\tb\nc\x1b[2J\x9b31m\rd\x07é\u200d\n"
