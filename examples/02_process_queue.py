"""Process queue: three workers count the words of texts; one of them is killed, and the others do not notice.

It prints:

    killed: counter-0, by SIGKILL
    at most one text was lost, the one in its hands: True
    the most frequent words: the and of
"""

import os
import signal
from collections import Counter

import weft

TEXTS = ["the cat and the dog", "the end of the road and of the day", "salt and pepper"]


def count(texts, counts):
    for text in iter(texts.get, None):
        counts.put(Counter(text.split()))


if __name__ == "__main__":
    texts, counts = (
        weft.Queue(maxsize=20),
        weft.Queue(),
    )  # at most twenty texts wait; counts as many as there are
    workers = [
        weft.Process(target=count, args=(texts, counts), name=f"counter-{number}") for number in range(3)
    ]
    for worker in workers:
        worker.start()

    for number in range(300):
        texts.put(TEXTS[number % len(TEXTS)])
        if number == 100:
            os.kill(
                workers[0].pid, signal.SIGKILL
            )  # wherever it is: in the middle of a get, a put, or its work
    for _ in workers:
        texts.put(None)
    for worker in workers:
        worker.join()
    print(f"killed: {workers[0].name}, by {signal.Signals(-workers[0].exitcode).name}")

    total, texts_counted = Counter(), 0
    while not counts.empty():  # exact: whatever was put can be got
        total += counts.get()
        texts_counted += 1
    print(f"at most one text was lost, the one in its hands: {texts_counted in (299, 300)}")
    print("the most frequent words:", *(word for word, _ in total.most_common(3)))
