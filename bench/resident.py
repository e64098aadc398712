"""How much memory a run takes while it runs."""

from __future__ import annotations

import threading

#: Seconds between two looks.
_EVERY = 0.004


class Peak:
    """Watches this process's resident memory: ``with Peak() as peak: ...``, then ``peak.grown`` bytes at the most."""

    def __enter__(self) -> Peak:
        import psutil

        self._process = psutil.Process()
        self._before = self._most = self._process.memory_info().rss
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._done.set()
        self._watcher.join()
        self._look()

    @property
    def grown(self) -> int:
        """Bytes above what was there before."""
        return self._most - self._before

    def _look(self) -> None:
        self._most = max(self._most, self._process.memory_info().rss)

    def _watch(self) -> None:
        while not self._done.wait(_EVERY):
            self._look()
