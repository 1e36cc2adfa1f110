"""How jobs on a cluster report to the process that started them."""

import asyncio
import itertools

Mail = tuple[int, str, int, float]
"""Number of the report, the job's folder, its training step, its mean development metric."""


class Mailbox:
    """An actor on the cluster that holds jobs' questions until they are answered.

    It keeps no lasting state: if it is restarted elsewhere, jobs ask again.
    """

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._mail: asyncio.Queue[Mail] = asyncio.Queue()
        self._answers: dict[int, asyncio.Future[bool]] = {}

    async def ask(self, folder: str, step: int, value: float) -> bool:
        """A job asks whether to stop here."""
        number = next(self._numbers)
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        await self._mail.put((number, folder, step, value))
        return await answer

    async def next(self) -> Mail:
        """Waits for a question."""
        return await self._mail.get()

    async def answer(self, number: int, stop: bool) -> None:
        """Answers a question; questions from before a restart are ignored, jobs ask them again."""
        answer = self._answers.pop(number, None)
        if answer is not None:
            answer.set_result(stop)
