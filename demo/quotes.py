"""A purchasing service on Flask and gevent, as one would serve it with gunicorn's gevent worker.

    gunicorn --worker-class gevent --chdir demo quotes:app

Every supplier is a greenlet with a queue; a request asks all of them at once and waits for the
answers. Nothing in this file knows of weft. The same request gets the same answer every time.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from typing import NamedTuple

import gevent
from flask import Flask, Response, jsonify
from gevent.event import AsyncResult
from gevent.queue import Queue

SUPPLIERS = 40

app = Flask(__name__)


class Question(NamedTuple):
    product: str
    pieces: int
    answer: AsyncResult[dict[str, object]]


class Supplier:
    """Answers questions one at a time, in a greenlet of its own."""

    def __init__(self, number: int) -> None:
        self.name = f"supplier {number:02}"
        self._questions: Queue[Question] = Queue()
        gevent.spawn(self._serve)

    def ask(self, product: str, pieces: int) -> AsyncResult[dict[str, object]]:
        answer: AsyncResult[dict[str, object]] = AsyncResult()
        self._questions.put(Question(product, pieces, answer))
        return answer

    def _serve(self) -> None:
        for question in self._questions:
            digest = sha256(f"{self.name}/{question.product}".encode()).digest()
            cents = 500 + int.from_bytes(digest[:2], "big") % 500
            discount = min(question.pieces, 40) // 10
            gevent.sleep(0)  # the others get a turn, as at a query of a database
            total = cents * question.pieces * (100 - discount) // 100
            question.answer.set({"supplier": self.name, "cents": total})


suppliers = [Supplier(number) for number in range(SUPPLIERS)]


@app.get("/quote/<product>/<int:pieces>")
def quote(product: str, pieces: int) -> Response:
    answers = [supplier.ask(product, pieces) for supplier in suppliers]
    offers = sorted((answer.get() for answer in answers), key=lambda offer: offer["cents"])
    return jsonify(product=product, pieces=pieces, offers=offers)


@app.get("/ledger/<product>")
def ledger(product: str) -> Response:
    """A page that is sent while it is being worked out."""

    def cheapest(pieces: int) -> object:
        return min(supplier.ask(product, pieces).get()["cents"] for supplier in suppliers[:5])

    def lines() -> Iterator[str]:
        for pieces in range(1, 11):
            yield f"{pieces:3} {product}: {gevent.spawn(cheapest, pieces).get():8}\n"

    return Response(lines(), mimetype="text/plain")
