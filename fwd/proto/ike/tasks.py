"""What an IKE SA has yet to do: tasks that wait for their turn, and those put off to a later time."""

from __future__ import annotations

from collections import deque

from fwd.proto.ike.task import Task


class Tasks:
    """Of one IKE SA; the one under way is not among them."""

    def __init__(self) -> None:
        self._waiting: deque[Task] = deque()
        self._later: list[tuple[float, Task]] = []

    def __bool__(self) -> bool:
        """Whether any waits for its turn."""
        return bool(self._waiting)

    def append(self, task: Task, *, first: bool = False) -> None:
        """Let one wait for its turn, behind the others or before them."""
        if first:
            self._waiting.appendleft(task)
        else:
            self._waiting.append(task)

    def put_off(self, task: Task, due: float) -> None:
        """Let one wait, but not for its turn before `due`."""
        self._later.append((due, task))

    def pop(self) -> Task:
        """Return the one whose turn it is."""
        return self._waiting.popleft()

    def pop_due(self, now: float) -> list[Task]:
        """Return those whose time has come, of those put off."""
        due = [task for at, task in self._later if at <= now]
        self._later = [(at, task) for at, task in self._later if at > now]
        return due

    def next_due(self) -> float | None:
        """When the time of one that was put off comes."""
        return min((due for due, _ in self._later), default=None)

    def waiting(self) -> list[Task]:
        """Return those that wait for their turn."""
        return list(self._waiting)

    def all(self) -> list[Task]:
        """Return all there are."""
        return [*self._waiting, *(task for _, task in self._later)]

    def take_all(self) -> list[Task]:
        """Return all there are, and have none any more."""
        found = self.all()
        self._waiting.clear()
        self._later.clear()
        return found
