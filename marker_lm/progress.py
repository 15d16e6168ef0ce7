"""Progress of long work: a live bar in a terminal, a line now and then in a log."""

import multiprocessing
import sys
import time


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class Progress:
    """One line of progress with rate and ETA. Use as a context manager.

    In a terminal the line rewrites itself; elsewhere a new one is printed every `seconds`.

    Args:
      title: what is going on.
      total: how many units there are.
      done: units done before (a resumed job), left out of the rate.
      seconds: the least time between two lines in a log.
    """

    def __init__(self, title: str, total: int, done: int = 0, seconds: float = 10.0):
        self.title, self.total, self.first, self.done = title, total, done, done
        self.note = ""
        # Lines of processes side by side would rewrite each other.
        self.live = sys.stderr.isatty() and multiprocessing.parent_process() is None
        self.seconds = 0.2 if self.live else seconds
        self.start = time.monotonic()
        self.shown, self.said = -float("inf"), None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        """Shows the last line for good; a log has it already where nothing came after it."""
        if self.live or self.said != (self.done, self.note):
            self.update(self.done, self.note, force=True)
        if self.live:
            print(file=sys.stderr)

    def update(self, done: int, note: str = "", force: bool = False) -> None:
        """Says that `done` units are finished; `note` stands at the end of the line."""
        self.done, self.note = done, note
        now = time.monotonic()
        if not force and now - self.shown < self.seconds:
            return
        self.shown, self.said = now, (done, note)
        spent = now - self.start
        rate = (done - self.first) / spent if spent > 0 else 0.0
        eta = clock((self.total - done) / rate) if rate > 0 else "?"
        line = (
            f"{self.title} {done}/{self.total} ({100 * done / max(self.total, 1):.0f} %) "
            f"{clock(spent)} spent, {eta} to go  {note}"
        )
        if self.live:
            print(f"\r\x1b[2K{line}", end="", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)
