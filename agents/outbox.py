"""Statuses on their way to the master: durable until acknowledged, oldest first, repeated with back-off.

The statuses themselves are in `State.outbox`; this paces them. A window bounds what is unacknowledged at once, so a day
offline does not become one flood.
"""

from agents.config import AgentConfig
from agents.session import Batch, Session
from agents.state import Attempt, State
from federation.wire import Status, StatusReport, TaskStatus

_REPORT_STATUSES_MAX = 256  # the wire's bound
_WINDOW = 512  # sent and not acknowledged; two full reports keep a slow link busy
_STATUS_OVERHEAD_BYTES = 400  # field names and numbers, beside the texts
_STATUSES_PER_ATTEMPT = 3  # staging, running, and its end


class Outbox:
    def __init__(self, config: AgentConfig, state: State) -> None:
        self._config = config
        self._state = state
        self._sent: dict[int, None] = {}  # on this connection, unacknowledged, oldest first
        self._retry_us = config.status_retry_min_us
        self.retry_due_us: int | None = None

    def has_room(self, n_commands: int) -> bool:
        """Whether the statuses that `n_commands` more, and the attempts held already, may yet cause would fit."""
        owed = self._state.n_live * _STATUSES_PER_ATTEMPT
        owed += len(self._state.replicas) + len(self._state.drops)
        return len(self._state.outbox) + owed + n_commands * _STATUSES_PER_ATTEMPT <= self._config.outbox_max

    def restart(self) -> None:
        """A new connection, or a master that does not know us: all is to be sent again."""
        self._sent.clear()
        self.retry_due_us = None
        self._retry_us = self._config.status_retry_min_us

    def on_acked(self, status_ids: tuple[int, ...]) -> None:
        """The acknowledged ones are out of the state already. Progress: the next silence is a new one."""
        for status_id in status_ids:
            self._sent.pop(status_id, None)
        self._retry_us = self._config.status_retry_min_us
        if not self._sent:
            self.retry_due_us = None

    def repeat(self, attempt: Attempt) -> Status | None:
        """A duplicate command came: have the attempt's newest status sent again. Returned if it was acknowledged
        before, and so is not in the outbox any more."""
        last = attempt.last
        if last is None:
            return None
        if last.status_id in self._state.outbox:
            self._sent.pop(last.status_id, None)
            return None
        return last

    def flush(self, batch: Batch, session: Session) -> None:
        """Send what is due and fits the window."""
        if not session.is_welcome:
            return
        now_us = batch.now_us
        if self.retry_due_us is not None and now_us >= self.retry_due_us:
            self._sent.clear()
            self.retry_due_us = None
            self._retry_us = min(2 * self._retry_us, self._config.status_retry_max_us)
        while len(self._sent) < _WINDOW:
            report = self._next_report()
            if not report:
                break
            session.publish(batch, StatusReport, statuses=report)
            self._sent.update(dict.fromkeys(status.status_id for status in report))
            if self.retry_due_us is None:
                self.retry_due_us = now_us + self._retry_us

    def _next_report(self) -> tuple[Status, ...]:
        report: list[Status] = []
        n_bytes = 0
        if len(self._sent) == len(self._state.outbox):
            return ()
        for status_id, status in self._state.outbox.items():
            if status_id in self._sent:
                continue
            n_bytes += size_bytes(status)
            if report and n_bytes > self._config.report_bytes_max:
                break
            report.append(status)
            if len(report) == min(_REPORT_STATUSES_MAX, _WINDOW - len(self._sent)):
                break
        return tuple(report)


def size_bytes(status: Status) -> int:
    """An upper bound of its share of a payload, without encoding it."""
    if isinstance(status, TaskStatus):
        text = 4 * (len(status.detail) + len(status.log_tail)) + len(status.task_id.encode())
        return _STATUS_OVERHEAD_BYTES + text + sum(200 + len(held.name.encode()) for held in status.outputs)
    return _STATUS_OVERHEAD_BYTES + 4 * len(status.detail) + len(status.shard.name.encode())
