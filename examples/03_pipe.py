"""Pipe: a process of its own has the database, and answers questions about it.

It prints:

    2 books by Ursula K. Le Guin: The Dispossessed, The Word for World Is Forest
    near "SELEKT": syntax error
    the database has closed its end
"""

import sqlite3

import weft


def serve(connection):
    database = sqlite3.connect(":memory:")
    while True:
        try:
            statement, *parameters = connection.recv()
        except EOFError:  # nobody can ask any more
            break
        try:
            connection.send(database.execute(statement, parameters).fetchall())
        except sqlite3.Error as error:
            connection.send(error)


def ask(connection, *question):
    connection.send(question)
    answer = connection.recv()
    if isinstance(answer, Exception):
        raise answer
    return answer


if __name__ == "__main__":
    ours, theirs = weft.Pipe()
    database = weft.Process(target=serve, args=(theirs,), name="database")
    database.start()
    theirs.close()  # it is the database's now: its end will be seen

    ask(ours, "CREATE TABLE books (author, title)")
    for book in [
        ("Ursula K. Le Guin", "The Dispossessed"),
        ("Stanisław Lem", "Solaris"),
        ("Ursula K. Le Guin", "The Word for World Is Forest"),
    ]:
        ask(ours, "INSERT INTO books VALUES (?, ?)", *book)
    titles = ask(ours, "SELECT title FROM books WHERE author = ? ORDER BY title", "Ursula K. Le Guin")
    print(f"{len(titles)} books by Ursula K. Le Guin: {', '.join(title for (title,) in titles)}")
    try:
        ask(ours, "SELEKT title")
    except sqlite3.Error as error:
        print(error)

    database.terminate()
    try:
        ours.recv()
    except EOFError:
        print("the database has closed its end")
    database.join()
