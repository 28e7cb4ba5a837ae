"""The socket behind the tab Drive: a browser's actions in, frames out, as fast as the model dreams.

A message in is JSON with a ``type``: start, act, rewind, branch, forget, what_if, uncertainty, replay, goal, plan,
stop. A message out is JSON, or binary with pictures (:func:`app.pictures.message`). Of actions that arrive while one
is dreamed only the newest is kept, so that no queue grows. A drive whose socket ends is kept for some minutes, for
whoever knows its token: a lost connection loses nothing.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from app.driving import Driving, Message, error_text
from app.pictures import EXPORTS
from app.session import failure
from vidvla.service import Service

PATH = "/drive"
SOCKETS = 32
"""Sockets open at once; another one is told so and closed."""
SILENCE = 15 * 60.0
"""Seconds without a word after which a socket is closed."""
GRACE = 10 * 60.0
"""Seconds that a drive without a socket is kept."""
LEFT = 8
"""Drives without a socket that are kept at most."""
SMALL, LARGE = 64 * 1024, 1_500_000
"""Characters of a message; large ones bring a picture or a file of actions."""
BRING = ("start", "replay", "goal")
"""Types of messages that may be large."""
LONG = ("replay", "plan")
"""Types of messages whose answers end where something new is asked."""
PENDING = 8
"""Requests that may wait, besides the newest action."""
AGAIN_LATER = 1013
"""WebSocket close code."""
LOCAL = ("localhost", "127.0.0.1", "0.0.0.0", "::1")


def parse(text: str | None) -> Message:
    """A message as it came in; ValueError where it is too large, no JSON object, or of no type."""
    if text is None:
        raise ValueError("expected a message of text, got bytes")
    if len(text) > LARGE:
        raise ValueError(f"expected a message of at most {SMALL} characters, got {len(text)}")
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError("expected a message in JSON, got something else") from error
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise ValueError("expected a JSON object with a type, got something else")
    if len(text) > SMALL and message["type"] not in BRING:
        raise ValueError(f"expected a message of at most {SMALL} characters, got {len(text)}")
    return message


class Mailbox:
    """What one socket still has to answer: the newest action, a few requests in their order, the newest refusal."""

    def __init__(self) -> None:
        self._waiting: list[Message | str] = []
        self._filled = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, message: Message) -> None:
        """Keep a message; of actions only the newest one, and nothing from before a start."""
        if message["type"] == "act":
            self._drop("act")
        elif message["type"] == "start":
            self._waiting.clear()
        elif sum(_kind(kept) not in ("act", None) for kept in self._waiting) >= PENDING:
            self.refuse("Too many requests at once: wait for an answer first.")
            return
        self._waiting.append(message)
        self._filled.set()

    def refuse(self, sentence: str) -> None:
        """Say a sentence once it is its turn, in place of one that still waits."""
        self._drop(None)
        self._waiting.append(sentence)
        self._filled.set()

    def _drop(self, kind: str | None) -> None:
        self._waiting = [kept for kept in self._waiting if _kind(kept) != kind]

    async def take(self) -> Message | str:
        """The next message, or the next sentence, once there is one."""
        await self._filled.wait()
        message = self._waiting.pop(0)
        if not self._waiting:
            self._filled.clear()
        return message


def _kind(kept: Message | str) -> str | None:
    """A message's type; None for a sentence."""
    return None if isinstance(kept, str) else kept["type"]


class Sockets:
    """All open sockets of one page.

    Args:
        limit: sockets open at once.
        silence: seconds without a word after which a socket is closed.
        grace: seconds that a drive without a socket is kept.
    """

    def __init__(
        self, service: Service, limit: int = SOCKETS, silence: float = SILENCE, grace: float = GRACE
    ) -> None:  # fmt: skip
        self.service, self.limit, self.silence, self.grace = service, limit, silence, grace
        self._open: dict[str, tuple[Driving, asyncio.Task[None]]] = {}
        self._left: dict[str, tuple[Driving, asyncio.TimerHandle]] = {}

    def routes(self) -> list[BaseRoute]:
        """The socket, and the files of drives."""
        return [WebSocketRoute(PATH, self.serve), Route(PATH + "/export/{token}.{kind}", self.export)]

    async def serve(self, socket: WebSocket) -> None:
        """One browser's socket from its opening to its end."""
        if _foreign(socket):
            await socket.close()
            return
        await socket.accept()
        known = socket.query_params.get("token", "")
        if len(self._open) >= self.limit and known not in self._open:
            text = f"At most {self.limit} people can drive at once: try again later."
            await socket.send_text(error_text(text))
            await socket.close(AGAIN_LATER)
            return
        token, driving = self._take(known)
        mailbox = Mailbox()
        worker = asyncio.create_task(self._answer(socket, driving, mailbox))
        self._open[token] = driving, worker
        try:
            await socket.send_text(json.dumps({"type": "hello", "token": token, "kept": driving.number}))
            await self._listen(socket, mailbox)
        except WebSocketDisconnect:
            pass  # gone while something was sent: nobody is left to tell
        finally:
            worker.cancel()
            if token in self._open and self._open[token][1] is worker:  # else another socket has taken over
                del self._open[token]
                self._leave(token, driving)

    def _take(self, token: str) -> tuple[str, Driving]:
        """A token and its drive, whose older socket is not answered any more; new ones where nobody knows the token."""
        if token in self._left:
            driving, timer = self._left.pop(token)
            timer.cancel()
            return token, driving
        if token in self._open:
            driving, worker = self._open.pop(token)
            worker.cancel()
            return token, driving
        return secrets.token_urlsafe(24), Driving(self.service)

    def _leave(self, token: str, driving: Driving) -> None:
        """Keep a drive without a socket for a while, and the newest few alone."""
        if driving.drive is None:
            return
        forget = asyncio.get_running_loop().call_later(self.grace, self._left.pop, token, None)
        self._left[token] = driving, forget
        for oldest in list(self._left)[:-LEFT]:
            self._left.pop(oldest)[1].cancel()

    async def _listen(self, socket: WebSocket, mailbox: Mailbox) -> None:
        """Put what comes in into the mailbox until the socket closes or falls silent."""
        while True:
            try:
                event = await asyncio.wait_for(socket.receive(), self.silence)
            except TimeoutError:
                text = "Nothing was asked for a while: the drive rests, and goes on with what is asked next."
                await socket.send_text(error_text(text))
                await socket.close()
                return
            if event["type"] == "websocket.disconnect":
                return
            try:
                mailbox.put(parse(event.get("text")))
            except ValueError as error:
                mailbox.refuse(failure(error, "The message"))
            await asyncio.sleep(0)  # a flood leaves the others their turn

    async def _answer(self, socket: WebSocket, driving: Driving, mailbox: Mailbox) -> None:
        """Answer the mailbox, each reply made in a thread of its own; a long one ends where something new is asked."""
        try:
            while True:
                message = await mailbox.take()
                if isinstance(message, str):
                    await socket.send_text(error_text(message))
                    continue
                replies = driving.answer(message)
                while (reply := await asyncio.to_thread(driving.next, replies)) is not None:
                    await (socket.send_bytes(reply) if isinstance(reply, bytes) else socket.send_text(reply))
                    if len(mailbox) and message["type"] in LONG:
                        break
        except (WebSocketDisconnect, RuntimeError):
            return  # the socket closed while the answer was made

    async def export(self, request: Request) -> Response:
        """A drive as a file, for whoever knows its token."""
        token, kind = request.path_params["token"], request.path_params["kind"]
        driving, _ = self._open.get(token) or self._left.get(token) or (None, None)
        if driving is None or driving.drive is None or kind not in EXPORTS:
            return PlainTextResponse("There is no such drive: it ends some minutes after its page.", 404)
        media, make = EXPORTS[kind]
        data = await asyncio.to_thread(make, driving.drive.export(), self.service.steps_per_second)
        name = f'attachment; filename="vidvla-drive.{kind}"'
        return Response(data, media_type=media, headers={"Content-Disposition": name, "Cache-Control": "no-store"})


def _foreign(socket: WebSocket) -> bool:
    """True where another site's page opens a socket to somebody's own machine."""
    host, origin = urlsplit(f"//{socket.headers.get('host', '')}").hostname, socket.headers.get("origin")
    return host in LOCAL and origin is not None and urlsplit(origin).hostname not in LOCAL
