"""Memory for large pictures, looked at before they are read."""

from __future__ import annotations

from pathlib import Path

#: What reading, converting and coloring a picture needs for each pixel, in bytes.
PER_PIXEL = 56
#: Smaller pictures are read without a look: 64 megapixels.
LARGE = 64_000_000


def check_room(width: int, height: int, pages: int = 1) -> None:
    """Refuse a picture that memory does not suffice for.

    :raises ValueError: it does not, or there is no pixel.
    """
    pixels = width * height * pages
    if pixels < 1:
        raise ValueError(f"a picture of {width} x {height} pixels")
    if pixels <= LARGE:
        return
    free = free_bytes()
    if free is not None and pixels * PER_PIXEL > free:
        count = f"{pages} pages of " if pages > 1 else ""
        raise ValueError(
            f"{count}{width} x {height} pixels need about {pixels * PER_PIXEL / 1e9:.1f} GB of memory and "
            f"{free / 1e9:.1f} GB are free; make it smaller, or close other programs"
        )


def free_bytes() -> int | None:
    """Memory that can still be had, within the machine's and the container's bounds; none where it cannot be known."""
    found = [bound for bound in (_of_machine(), _of_container()) if bound is not None]
    return min(found) if found else None


def _of_machine() -> int | None:
    try:  # ComfyUI brings it; it knows every system
        import psutil
    except ImportError:
        pass
    else:
        return int(psutil.virtual_memory().available)
    try:
        for line in Path("/proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return None


def _of_container() -> int | None:
    folder = Path("/sys/fs/cgroup")
    try:
        return int((folder / "memory.max").read_text("ascii")) - int((folder / "memory.current").read_text("ascii"))
    except (OSError, ValueError):  # no bound is the word "max"
        return None
