"""Every error that slmops raises on purpose, with its exit code.

SlmopsError                 1   anything below
├── UsageError              2   an option or argument that makes no sense
├── SourceNotFound          3   the path or Hub name leads nowhere
├── CorruptInput            4   truncated, overlapping, missing, NaN: the bytes are not what they claim
├── UnknownFamily           5   no architecture file knows this model_type
├── Unsupported             6   a pair that cannot work (this scheme in that format); found while planning
├── EngineMissing           7   the engine that was asked for is not installed
├── EngineFailed            8   the engine answered with an error
├── EngineCrashed           9   the engine's process died
├── VerificationFailed     10   an artifact does not compute what its source computes
├── NoSpace                11   the disk is full
├── OutputExists           12   something else already stands under the final name
├── GateFailed             13   a measured gate was not met
├── CheckFailed            14   a check of the user's own (slmops test) did not hold
├── PolicyRefused          15   the registry's policy forbids it: source, size, signature, licence or approval
├── Unreachable            16   a server does not answer, or the network is down: run it again later
└── Busy                   17   as much is asked as may be: a full queue, a rate or a budget used up; try again later
(Interrupted by Ctrl-C:   130, by SIGTERM: 143)
"""

from __future__ import annotations


class SlmopsError(Exception):
    """A fault with its cure: `str(error)` is the fault in one line, `error.cure` what to do about it."""

    exit_code = 1

    def __init__(self, fault: str, cure: str = "") -> None:
        super().__init__(fault)
        self.cure = cure


class UsageError(SlmopsError):
    exit_code = 2


class SourceNotFound(SlmopsError):
    exit_code = 3


class CorruptInput(SlmopsError):
    exit_code = 4


class UnknownFamily(SlmopsError):
    exit_code = 5


class Unsupported(SlmopsError):
    exit_code = 6


class EngineMissing(SlmopsError):
    exit_code = 7


class EngineFailed(SlmopsError):
    exit_code = 8


class EngineCrashed(SlmopsError):
    exit_code = 9


class VerificationFailed(SlmopsError):
    exit_code = 10


class NoSpace(SlmopsError):
    exit_code = 11


class OutputExists(SlmopsError):
    exit_code = 12


class GateFailed(SlmopsError):
    exit_code = 13


class CheckFailed(SlmopsError):
    exit_code = 14


class PolicyRefused(SlmopsError):
    exit_code = 15


class Unreachable(SlmopsError):
    exit_code = 16


class Busy(SlmopsError):
    """`seconds`: after how many it is worth trying again. `cause`: a word that metrics count by: queue, memory, rate, ..."""

    exit_code = 17

    def __init__(self, fault: str, cure: str = "", seconds: float = 1.0, cause: str = "busy") -> None:
        super().__init__(fault, cure)
        self.seconds, self.cause = seconds, cause
