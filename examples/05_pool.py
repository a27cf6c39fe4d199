"""Pool: tasks over all processors. A task's death is its own: the others never notice.

It prints:

    gaps between the first primes: 1 2 2 4 2 4
    7 * 6 = 42
    a worker was killed by SIGKILL; its task says so, and 99 others are done
    a task that takes too long is ended: TaskTimeout
"""

import os
import signal
import threading
from itertools import pairwise

import weft


def is_prime(number):
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


def product(left, right):
    return left * right


def work(number):
    if number == 50:
        os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does when memory runs out
    return number


def stuck():
    threading.Event().wait()


if __name__ == "__main__":
    with weft.Pool(2) as pool:
        primes = [number for number, prime in enumerate(pool.map(is_prime, range(1_000))) if prime]
        print("gaps between the first primes:", *(after - before for before, after in pairwise(primes[:7])))
        print("7 * 6 =", pool.apply(product, (7, 6)))

        tasks = [pool.apply_async(work, (number,)) for number in range(100)]
        done, dead = [], []
        for task in tasks:
            try:
                done.append(task.get())
            except weft.WorkerDied as error:
                dead.append(error)
        name = signal.Signals(-dead[0].exitcode).name
        print(f"a worker was killed by {name}; its task says so, and {len(done)} others are done")

        try:
            pool.apply(stuck, timeout=0.1)
        except weft.TaskTimeout as error:
            print(f"a task that takes too long is ended: {type(error).__name__}")
