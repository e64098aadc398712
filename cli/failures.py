"""What a command that fails says: one line, and a return code for each kind of failure."""

from __future__ import annotations

DONE, FAILED, USAGE, UNEXPECTED, STOPPED = 0, 1, 2, 3, 130

CODES = (
    f"return codes: {DONE} done; {FAILED} refused, or failed on the way: one line on standard error says why; {USAGE} "
    f"the command line is not understood; {UNEXPECTED} unexpected, a mistake in this program or below it "
    f"(--traceback shows where); {STOPPED} stopped by the user."
)

MEMORY = "memory ran out; lower the resolution, or --batch if it is set."
#: Longest line that is shown; a message may quote what was typed.
_LONGEST = 1500


class UnexpectedError(Exception):
    """A mistake of ours or of a library, told with the picture that it came at."""


def told(error: BaseException) -> tuple[int, str]:
    """Return code and line for what ended a command."""
    if isinstance(error, KeyboardInterrupt):
        return STOPPED, "stopped"
    from ..color.batches import ran_out

    if ran_out(error):
        return FAILED, f"error: {one_line(str(error) if MEMORY in str(error) else MEMORY)}"
    if isinstance(error, UnexpectedError):
        return UNEXPECTED, f"error: {one_line(str(error))}"
    if isinstance(error, (ValueError, OSError, ImportError)):
        return FAILED, f"error: {one_line(said(error))}"
    return UNEXPECTED, f"error: {one_line(said(error))}"


def said(error: BaseException) -> str:
    """What an error says, without a line's break and without what only a programmer reads."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}." if error.filename is not None else f"{error.strerror}."
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"The Python package {error.name} is not there; install it, as the README says."
    if isinstance(error, (ValueError, OSError, ImportError)):
        return str(error) or type(error).__name__
    text = str(error) or "no more is known"
    return f"unexpected {type(error).__name__}: {text.rstrip('.')}. --traceback shows where; please report it."


def one_line(text: str) -> str:
    """A text on one line that a terminal can show, cut where it is very long."""
    line = " ".join(text.split())
    line = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ..."
