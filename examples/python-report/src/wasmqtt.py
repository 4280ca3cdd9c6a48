"""How a task in Python says that it failed. The same in every project."""


class Reject(Exception):
    """The input is wrong and always will be: the task is never tried again."""


class RetryAfter(Exception):
    """It failed for now: worth another attempt, not before `delay_ms`. Any other exception: the task's retry policy says."""

    def __init__(self, message: str, delay_ms: int):
        super().__init__(message)
        self.delay_ms = delay_ms
