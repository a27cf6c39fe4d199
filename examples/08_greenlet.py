"""greenlet: a parser that calls back becomes an iterator, although C code lies in between.

expat calls a function for each element, and returns when the document is over. Here that function switches out of the
middle of expat, and the loop that wants elements switches in again.

It prints:

    first: shelf
    book: Solaris, 1961
    book: The Dispossessed, 1974
    the rest was never parsed: True
"""

from xml.parsers import expat

from weft.greenlet import getcurrent, greenlet

DOCUMENT = """<shelf>
  <book title="Solaris" year="1961"/>
  <book title="The Dispossessed" year="1974"/>
  <box><this is not XML at all
</shelf>"""


def elements(document):
    consumer = getcurrent()

    def parse():
        parser = expat.ParserCreate()
        parser.StartElementHandler = lambda name, attributes: consumer.switch((name, attributes))
        parser.Parse(document, True)

    parsing = greenlet(parse)
    while (element := parsing.switch()) is not None:
        yield element


if __name__ == "__main__":
    found = elements(DOCUMENT)
    name, _ = next(found)
    print("first:", name)
    for name, attributes in found:
        if name != "book":
            break
        print(f"{name}: {attributes['title']}, {attributes['year']}")
    print("the rest was never parsed:", name == "box")
