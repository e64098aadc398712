"""Looks over files before they are committed: ends of lines and files, marks of a conflict, large files.

Names of files as arguments; with none, all files that git knows. Ends with status 1 where something is wrong.
"""

import subprocess
import sys
from pathlib import Path

#: Models are the only large files, and they are few.
LARGEST, MODELS = 2_000_000, ("demo/", "tests/parity/data/")

#: Written by other programs, and kept as they were.
RECORDED = "tests/parity/data/"

BINARY = {".jpg", ".png", ".mp4", ".safetensors", ".npz", ".tif", ".ckpt"}


def faults(path: Path) -> list[str]:
    """What is wrong with a file, in words."""
    found = []
    if path.stat().st_size > LARGEST and not path.as_posix().startswith(MODELS):
        found.append(f"has {path.stat().st_size / 1e6:.1f} MB")
    if path.suffix in BINARY or path.as_posix().startswith(RECORDED):
        return found
    data = path.read_bytes()
    try:
        lines = data.decode("utf-8").split("\n")
    except UnicodeDecodeError:
        return [*found, "is no UTF-8"]
    if data and (lines[-1] or (len(lines) > 1 and not lines[-2].strip())):
        found.append("does not end with one line break")
    for number, line in enumerate(lines, 1):
        if line != line.rstrip():
            found.append(f"line {number} ends with spaces")
        if line.startswith(("<<<<<<< ", ">>>>>>> ")):
            found.append(f"line {number} is a conflict's")
    return found


def main(names: list[str]) -> int:
    """Look at the files named, and say what is wrong."""
    git = ["git", "ls-files", "-z"]
    listed = names or subprocess.run(git, capture_output=True, text=True, check=True).stdout.split("\0")
    wrong = [f"{name}: {fault}" for name in listed if Path(name).is_file() for fault in faults(Path(name))]
    sys.stdout.write("".join(f"{line}\n" for line in wrong))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
