"""The resolvers that ask by themselves, by c-ares and by dnspython, and what they make of a name server's answers."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("dns")
pytest.importorskip("pycares")

import weft.gevent
from nameserver import MANY, NameServer
from weft.gevent.hub import Hub
from weft.gevent.resolver._hostsfile import HostsFile
from weft.gevent.resolver.ares import Resolver as Ares
from weft.gevent.resolver.dnspython import Resolver as DNSPython

# Answers are remembered by resolvers: a name that is to be asked for is a new one.
_numbers = itertools.count()

NONAME = (socket.EAI_NONAME, "Name or service not known")


@pytest.fixture
def server() -> Iterator[NameServer]:
    made = NameServer()
    yield made
    made.close()


def make(kind: str, server: NameServer, patience: float = 5.0) -> Any:
    if kind == "ares":
        return Ares(servers=[f"127.0.0.1:{server.port}"], timeout=patience, tries=1)
    made = DNSPython()
    made.resolver.nameservers = ["127.0.0.1"]
    made.resolver.port = server.port
    made.resolver.lifetime = patience
    return made


@pytest.fixture(params=["ares", "dnspython"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def resolver(kind: str, server: NameServer, hub: Hub) -> Iterator[Any]:
    made = make(kind, server)
    hub.resolver = made
    yield made
    made.close()


@pytest.fixture
def hasty(kind: str, server: NameServer) -> Iterator[Any]:
    made = make(kind, server, 0.3)
    yield made
    made.close()


def new(label: str) -> str:
    return f"{label}{next(_numbers)}.test"


def outcome(function: Callable[..., Any], *args: Any) -> Any:
    try:
        return function(*args)
    except Exception as error:
        return type(error), error.args


def test_what_is_no_name_is_as_the_system_has_it_and_asks_nobody(server: NameServer, resolver: Any) -> None:
    hosts = ["1.2.3.4", "127.1", b"::1", "fe80::1%1", None, "localhost", "127.0.0.1", 3, "x" * 64]
    for host in hosts:
        for rest in [(80,), ("http",), (None,), ("nosuchservice",), (80, 255), (80, 0, 77), (80, 0, 1, 17)]:
            expected = outcome(socket.getaddrinfo, host, *rest)
            assert outcome(resolver.getaddrinfo, host, *rest) == expected, (host, rest)
    assert resolver.getaddrinfo("1.2.3.4", 1, flags=socket.AI_NUMERICHOST)[0][4] == ("1.2.3.4", 1)
    assert outcome(resolver.getaddrinfo, "host.test", 1, 0, 0, 0, socket.AI_NUMERICHOST) == (
        socket.gaierror,
        NONAME,
    )
    for host in ["1.2.3.4", "", "255.255.255.255", "<broadcast>", "::1", "localhost", 3]:
        for name in ("gethostbyname", "gethostbyname_ex"):
            expected = outcome(getattr(socket, name), host)
            assert outcome(getattr(resolver, name), host) == expected, (name, host)
    for address in [
        ("127.0.0.1", 80),
        ("1.2.3.4", "80"),
        "1.2.3.4",
        ("name", 80),
        ("::1", 80, 1 << 20),
        (None, 1),
    ]:
        assert outcome(resolver.getnameinfo, address, 0) == outcome(socket.getnameinfo, address, 0), address
    numeric = socket.NI_NUMERICHOST
    for port, flags in itertools.product((0, 80, 65536, -1), (0, socket.NI_DGRAM, socket.NI_NUMERICSERV)):
        expected = outcome(socket.getnameinfo, ("192.0.2.1", port), flags | numeric)
        assert outcome(resolver.getnameinfo, ("192.0.2.1", port), flags | numeric) == expected
    assert server.asked == []


def test_addresses_of_names(resolver: Any) -> None:
    four, six = ("192.0.2.1", 80), ("2001:db8::1", 80, 0, 0)
    kinds = [(socket.SOCK_STREAM, 6), (socket.SOCK_DGRAM, 17), (socket.SOCK_RAW, 0)]
    found = resolver.getaddrinfo("host.test", 80)
    assert sorted(found) == sorted(
        [(socket.AF_INET, *each, "", four) for each in kinds]
        + [(socket.AF_INET6, *each, "", six) for each in kinds]
    )
    stream = (socket.SOCK_STREAM, 6)
    assert resolver.getaddrinfo("host.test", "http", 0, socket.SOCK_STREAM) in (
        [(socket.AF_INET, *stream, "", four), (socket.AF_INET6, *stream, "", six)],
        [(socket.AF_INET6, *stream, "", six), (socket.AF_INET, *stream, "", four)],
    )
    only = resolver.getaddrinfo(b"HOST.test.", None, socket.AF_INET6, 0, 17)
    assert only == [(socket.AF_INET6, socket.SOCK_DGRAM, 17, "", ("2001:db8::1", 0, 0, 0))]
    names = resolver.getaddrinfo("alias.test", 80, socket.AF_INET, socket.SOCK_STREAM, 0, socket.AI_CANONNAME)
    assert names == [(socket.AF_INET, *stream, "host.test", four)]
    assert resolver.getaddrinfo("bücher.test", 80, 0, socket.SOCK_STREAM)[0][4] == ("192.0.2.9", 80)
    assert [each[4][0] for each in resolver.getaddrinfo("four.test", 80, 0, 1)] == ["192.0.2.4"]
    assert [each[4][0] for each in resolver.getaddrinfo("six.test", 80, 0, 1)] == ["2001:db8::6"]
    # By the functions, whose numbers are members of enumerations.
    assert weft.gevent.socket.getaddrinfo("host.test", 80, 2, 1)[0][0] is socket.AF_INET


def test_addresses_of_one_family_for_another(resolver: Any) -> None:
    def mapped(name: str, flags: int) -> list[str]:
        return [each[4][0] for each in resolver.getaddrinfo(name, 80, socket.AF_INET6, 1, 0, flags)]

    assert mapped("four.test", socket.AI_V4MAPPED) == ["::ffff:192.0.2.4"]
    assert mapped("host.test", socket.AI_V4MAPPED) == ["2001:db8::1"]
    both = mapped("host.test", socket.AI_V4MAPPED | socket.AI_ALL)
    assert both == ["2001:db8::1", "::ffff:192.0.2.1"]
    with pytest.raises(socket.gaierror) as failed:
        mapped(new("nobody"), socket.AI_V4MAPPED)
    assert failed.value.args == NONAME
    # Which families this machine has cannot be known here; of one at least it has an address.
    assert resolver.getaddrinfo("host.test", 80, 0, 1, 0, socket.AI_ADDRCONFIG)


def test_hosts_by_name_and_by_address(resolver: Any) -> None:
    assert resolver.gethostbyname("host.test") == "192.0.2.1"
    assert resolver.gethostbyname_ex(b"alias.test") == (
        "host.test",
        ["alias.test", "middle.test"],
        ["192.0.2.1"],
    )
    assert resolver.gethostbyaddr("192.0.2.1") == ("host.test", [], ["192.0.2.1"])
    assert resolver.gethostbyaddr("2001:db8::1") == ("host.test", [], ["2001:db8::1"])
    assert resolver.gethostbyaddr("host.test")[0] == "host.test"
    assert resolver.getnameinfo(("192.0.2.1", 80), 0) == ("host.test", "http")
    assert resolver.getnameinfo(("2001:db8::1", 80, 0, 0), socket.NI_NUMERICSERV) == ("host.test", "80")
    assert resolver.getnameinfo(("192.0.2.200", 80), 0) == ("192.0.2.200", "http")
    with pytest.raises(socket.gaierror) as failed:
        resolver.getnameinfo(("192.0.2.201", 80), socket.NI_NAMEREQD)
    assert failed.value.args == NONAME
    assert weft.gevent.socket.getfqdn("192.0.2.1") == "host.test"


def test_an_answer_that_does_not_fit_a_datagram_comes_by_a_stream(server: NameServer, resolver: Any) -> None:
    assert sorted(resolver.gethostbyname_ex("many.test")[2]) == sorted(MANY)
    assert {("many.test", "udp"), ("many.test", "tcp")} <= set(server.asked)


@pytest.mark.parametrize(
    "label, code",
    [
        ("nobody", socket.EAI_NONAME),
        ("empty", socket.EAI_NODATA),
        ("broken", socket.EAI_AGAIN),
        ("refused", socket.EAI_AGAIN),
    ],
)
def test_failures_have_the_numbers_of_the_system(kind: str, hasty: Any, label: str, code: int) -> None:
    for family in (0, socket.AF_INET, socket.AF_INET6):
        with pytest.raises(socket.gaierror) as failed:
            hasty.getaddrinfo(new(label), 80, family)
        assert failed.value.errno == code, failed.value
    for function in (hasty.gethostbyname, hasty.gethostbyname_ex):
        with pytest.raises(OSError) as failed_host:
            function(new(label))
        gevents = kind == "ares" and code == socket.EAI_AGAIN
        assert type(failed_host.value) is (socket.herror if gevents else socket.gaierror)
        assert failed_host.value.errno == (2 if gevents else code)


def test_an_address_without_a_name_is_an_unknown_host(resolver: Any) -> None:
    with pytest.raises(socket.herror) as failed:
        resolver.gethostbyaddr("192.0.2.99")
    assert failed.value.args == (1, "Unknown host")
    with pytest.raises(socket.gaierror) as unknown:
        resolver.gethostbyaddr(new("nobody"))
    assert unknown.value.args == NONAME


@pytest.mark.parametrize("label", ["silent", "nothing", "short", "noise", "stranger", "circle", "cut"])
def test_what_is_no_answer_ends_in_a_failure(
    hasty: Any, label: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(socket.gaierror) as failed:
        hasty.getaddrinfo(new(label), 80, socket.AF_INET)
    # c-ares takes a name that leads to itself for no record at all.
    assert failed.value.errno in (socket.EAI_AGAIN, socket.EAI_FAIL, socket.EAI_NODATA)
    assert hasty.gethostbyname("host.test") == "192.0.2.1", "it goes on with others"
    assert capfd.readouterr() == ("", "")


def test_names_that_are_none_are_not_known(resolver: Any) -> None:
    for name in ("a..b", "." * 3, "x." * 130 + "test", b"\xff.test", b"x" * 64 + b".test"):
        with pytest.raises((socket.gaierror, UnicodeError)) as failed:
            resolver.getaddrinfo(name, 80)
        expected = (socket.EAI_NONAME, socket.EAI_FAIL, None)
        assert getattr(failed.value, "errno", None) in expected, (name, failed.value)


def test_others_run_while_one_waits_for_an_answer(server: NameServer, resolver: Any, hub: Hub) -> None:
    names = [new("held") for _ in range(20)]
    asking = [weft.gevent.spawn(resolver.gethostbyname, name) for name in names]
    # All have asked before any is answered.
    for _ in names:
        hub.threadpool.apply(server.held.acquire)
    assert not any(each.ready() for each in asking)
    server.go_on.set()
    weft.gevent.joinall(asking, raise_error=True)
    assert [each.value for each in asking] == ["192.0.2.7"] * len(names)


@pytest.mark.parametrize(
    "exception", [None, ValueError("thrown"), TimeoutError("thrown"), OSError(5, "thrown")]
)
def test_a_timeout_ends_a_question(server: NameServer, resolver: Any, exception: Any) -> None:
    limit = weft.gevent.Timeout(0.05, exception)
    with pytest.raises(BaseException) as ended, limit:
        resolver.getaddrinfo(new("held"), 80)
    assert ended.value is (exception or limit)
    server.go_on.set()
    assert resolver.gethostbyname("host.test") == "192.0.2.1"


def test_a_killed_greenlet_waits_no_more(server: NameServer, resolver: Any, hub: Hub) -> None:
    asking = weft.gevent.spawn(resolver.getaddrinfo, new("held"), 80)
    hub.threadpool.apply(server.held.acquire)
    asking.kill()
    assert asking.successful() and isinstance(asking.value, weft.gevent.GreenletExit)
    # What is still on its way keeps nobody.
    assert hub.loop.activecnt == 0 or weft.gevent.wait(timeout=10)
    server.go_on.set()
    assert resolver.gethostbyname("host.test") == "192.0.2.1"


def test_the_file_of_hosts_comes_first(server: NameServer, resolver: Any, tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text(
        "192.0.2.77 Canonical.test alias.test # comment\n2001:db8::77 canonical.test\nnonsense x\n"
    )
    resolver._hosts = hosts = HostsFile(str(path))
    assert resolver.gethostbyname("ALIAS.test") == "192.0.2.77"
    assert resolver.gethostbyname_ex("alias.test") == ("canonical.test", ["alias.test"], ["192.0.2.77"])
    found = {each[4][0] for each in resolver.getaddrinfo("canonical.test", 80)}
    assert found == {"192.0.2.77", "2001:db8::77"}
    assert resolver.gethostbyaddr("192.0.2.77") == ("canonical.test", ["alias.test"], ["192.0.2.77"])
    assert resolver.getnameinfo(("2001:db8::77", 80, 0, 0), 0) == ("canonical.test", "http")
    assert server.asked == []
    assert (hosts.v4["alias.test"], hosts.v6, hosts.aliases, hosts.reverse["192.0.2.77"]) == (
        "192.0.2.77",
        {"canonical.test": "2001:db8::77"},
        {"alias.test": "canonical.test"},
        "canonical.test",
    )
    path.write_text("")
    assert resolver.gethostbyname("alias.test") == "192.0.2.1", "read again"
    path.unlink()
    assert resolver.gethostbyname("host.test") == "192.0.2.1"


def test_closed_it_answers_nobody_any_more(server: NameServer, hub: Hub) -> None:
    resolver = make("ares", server)
    asking = weft.gevent.spawn(outcome, resolver.gethostbyname, new("held"))
    hub.threadpool.apply(server.held.acquire)
    resolver.close()
    kind, (number, message) = asking.get()
    assert (kind, number) == (socket.herror, 3) and "ARES_ECANCELLED" in message
    with pytest.raises(RuntimeError, match="closed"):
        resolver.gethostbyname(new("host"))
    assert resolver.cares is None and hub.loop.activecnt == 0
    resolver.close()


def test_one_that_is_not_closed_says_so(server: NameServer) -> None:
    with pytest.warns(ResourceWarning, match="not closed"):
        made = make("ares", server)
        made.gethostbyname("host.test")
        del made


# --- in processes of their own ------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere() -> Iterator[int]:
    """The port of a name server in another process."""
    command = [sys.executable, str(Path(__file__).with_name("nameserver.py"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdin is not None
        yield int(process.stdout.readline())
        process.stdin.close()


_PRELUDE = """
import os, sys
kind, port = sys.argv[1], int(sys.argv[2])
def make(patience=20):
    if kind == "ares":
        from weft.gevent.resolver.ares import Resolver
        return Resolver(servers=f"127.0.0.1:{port}", timeout=patience, tries=1)
    from weft.gevent.resolver.dnspython import Resolver
    made = Resolver()
    made.resolver.nameservers, made.resolver.port, made.resolver.lifetime = ["127.0.0.1"], port, patience
    return made
"""


def run(source: str, kind: str, port: int = 0, **environment: str) -> None:
    command = [sys.executable, "-c", _PRELUDE + source, kind, str(port)]
    env = {**os.environ, **environment}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env)
    assert (ended.stdout, ended.stderr, ended.returncode) == ("fine\n", "", 0)


def test_a_forked_child_asks_for_itself(kind: str, elsewhere: int) -> None:
    run(
        """
import weft.gevent, weft.gevent.os
resolver = make()
assert resolver.gethostbyname("host.test") == "192.0.2.1"
child = weft.gevent.os.fork()
assert resolver.gethostbyname("four.test") == "192.0.2.4"
if child:
    assert weft.gevent.os.waitpid(child, 0)[1] == 0
    resolver.close()
    print("fine")
else:
    resolver.close()
""",
        kind,
        elsewhere,
    )


@pytest.mark.parametrize("first", ["", "import pycares, dns.resolver, dns.asyncresolver", "import queue"])
def test_in_a_patched_process(kind: str, elsewhere: int, first: str) -> None:
    run(
        f"""
{first}
import warnings
warnings.simplefilter("ignore")
import weft.gevent.monkey
weft.gevent.monkey.patch_all()
resolver = make()
asking = [weft.gevent.spawn(resolver.gethostbyname, "host.test") for _ in range(3)]
weft.gevent.joinall(asking, raise_error=True)
resolver.close()
again = make()
assert again.gethostbyname("four.test") == "192.0.2.4"
again.close()
print("fine")
""",
        kind,
        elsewhere,
    )


def test_nothing_keeps_a_program_from_ending(kind: str, elsewhere: int) -> None:
    run(
        """
import weft.gevent
resolver = make(3600)
asking = weft.gevent.spawn(resolver.gethostbyname, "silent.test")
weft.gevent.sleep(0.01)
asking.kill()
weft.gevent.wait()
print("fine")
os._exit(0)
""",
        kind,
        elsewhere,
    )


def test_a_setting_chooses_it(kind: str) -> None:
    run(
        """
import weft.gevent
hub = weft.gevent.get_hub()
assert type(hub.resolver).__module__ == f"weft.gevent.resolver.{kind}", hub.resolver
if kind == "ares":
    assert hub.resolver.cares.servers == ["127.0.0.1:53", "127.0.0.2:53"]
    assert hub.resolver.params["timeout"] == 1.5
else:
    assert [str(each) for each in hub.resolver.resolver.nameservers] == ["127.0.0.1", "127.0.0.2"]
    assert hub.resolver.resolver.lifetime == 1.5
hub.destroy()
print("fine")
""",
        kind,
        GEVENT_RESOLVER=kind,
        GEVENT_RESOLVER_NAMESERVERS="127.0.0.1,127.0.0.2",
        GEVENT_RESOLVER_TIMEOUT="1.5",
    )


def test_without_its_package_it_says_what_to_install(kind: str) -> None:
    run(
        """
sys.modules["pycares"] = sys.modules["dns"] = None
try:
    make()
except ImportError as error:
    assert "pip install" in str(error) and kind in str(error), error
    print("fine")
""",
        kind,
    )
