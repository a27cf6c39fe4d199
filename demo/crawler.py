"""A crawler on gevent, as one would write it: greenlets, a queue, and the standard library's HTTP client, patched.

    python demo/crawler.py PORT    crawls the site at that port of this machine, and prints what it found

Nothing in this file knows of weft. The same site gets the same answer every time.
"""

from gevent import monkey

monkey.patch_all(ssl=False, subprocess=False)  # it uses neither

import sys
from collections import Counter
from html.parser import HTMLParser
from http.client import HTTPConnection

import gevent
from gevent.queue import JoinableQueue

CRAWLERS = 50


class Page(HTMLParser):
    """The title, the words and the links of a page."""

    def __init__(self, text):
        super().__init__()
        self.title, self.words, self.links = "", Counter(), []
        self._inside = None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self._inside = tag
        if tag == "a":
            self.links.append(dict(attributes)["href"])

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        if self._inside == "title":
            self.title = data
        elif self._inside == "p":
            self.words.update(data.split())


class Crawl:
    def __init__(self, port):
        self.port = port
        self.queue = JoinableQueue()
        self.seen = set()
        self.pages = {}
        self.missing = set()

    def want(self, path):
        if path not in self.seen:
            self.seen.add(path)
            self.queue.put(path)

    def work(self):
        connection = HTTPConnection("127.0.0.1", self.port)
        try:
            for path in self.queue:
                self.visit(connection, path)
                self.queue.task_done()
        finally:
            connection.close()

    def visit(self, connection, path):
        connection.request("GET", path)
        response = connection.getresponse()
        text = response.read().decode()
        if response.status == 404:
            self.missing.add(path)
            return
        page = self.pages[path] = Page(text)
        for link in page.links:
            self.want(link)


def main(port):
    crawl = Crawl(port)
    crawl.want("/page/0")
    crawlers = [gevent.spawn(crawl.work) for _ in range(CRAWLERS)]
    crawl.queue.join()
    gevent.killall(crawlers)

    words = sum((page.words for page in crawl.pages.values()), Counter())
    linked = Counter(link for page in crawl.pages.values() for link in page.links)
    print(f"{len(crawl.pages)} pages, {len(crawl.missing)} links that lead nowhere")
    for path in sorted(crawl.missing):
        print("missing", path)
    for word, count in sorted(words.items()):
        print("word", word, count)
    for path, page in sorted(crawl.pages.items()):
        print(path, page.title, linked[path], len(page.links))


if __name__ == "__main__":
    main(int(sys.argv[1]))
