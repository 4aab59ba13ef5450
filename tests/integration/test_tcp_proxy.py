"""The proxy of the network row does what it says, seen from both ends of a connection."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.chaos.tcp_proxy import Fault, TcpProxy


class Echo:
    """Answers every message with itself, and remembers what arrived."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.heard = b""
        self.ended = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while message := connection.recv(4096):
                self.heard += message
                connection.sendall(message)
        self.ended.set()

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[TcpProxy]:
    with TcpProxy(echo.port, delay_seconds=0.3) as running:
        yield running


def connect(proxy: TcpProxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=5)


def ask(connection: socket.socket, message: bytes) -> bytes:
    connection.sendall(message)
    return connection.recv(4096)


def is_silent(connection: socket.socket) -> bool:
    connection.settimeout(0.3)
    try:
        connection.recv(1)
    except TimeoutError:
        return True
    finally:
        connection.settimeout(5)
    return False


def wait_for(heard: bytes, echo: Echo) -> None:
    deadline = time.monotonic() + 5
    while echo.heard != heard:
        assert time.monotonic() < deadline, echo.heard
        time.sleep(0.01)


def test_without_a_fault_everything_passes_and_a_close_is_told(proxy: TcpProxy, echo: Echo) -> None:
    with connect(proxy) as connection:
        assert ask(connection, b"click") == b"click"
    assert echo.ended.wait(5)


def test_dropped_responses_let_the_request_arrive_and_the_connection_stays_silent(
    proxy: TcpProxy, echo: Echo
) -> None:
    with connect(proxy) as connection:
        with proxy.during(Fault.RESPONSES_DROPPED):
            connection.sendall(b"one")
            wait_for(b"one", echo)
            assert is_silent(connection)
        connection.sendall(b"two")
        wait_for(b"onetwo", echo)
        assert is_silent(connection)
        with connect(proxy) as another:
            assert ask(another, b"three") == b"three"


def test_a_black_hole_lets_nothing_arrive_and_new_connections_work_afterwards(
    proxy: TcpProxy, echo: Echo
) -> None:
    with connect(proxy) as connection:
        with proxy.during(Fault.BLACK_HOLE):
            connection.sendall(b"one")
            assert is_silent(connection)
        connection.sendall(b"two")
        assert is_silent(connection)
        assert echo.heard == b""
        with connect(proxy) as another:
            assert ask(another, b"three") == b"three"


def test_what_was_held_arrives_when_the_fault_is_over(proxy: TcpProxy, echo: Echo) -> None:
    with connect(proxy) as connection:
        with proxy.during(Fault.HELD):
            connection.sendall(b"one")
            assert is_silent(connection)
            assert echo.heard == b""
        assert connection.recv(4096) == b"one"


def test_a_reset_is_an_error_at_both_ends_and_for_new_connections(
    proxy: TcpProxy, echo: Echo
) -> None:
    with connect(proxy) as connection:
        assert ask(connection, b"one") == b"one"
        with proxy.during(Fault.RESET):
            with pytest.raises(ConnectionResetError):
                connection.recv(1)
            assert echo.ended.wait(5)
            with pytest.raises(ConnectionResetError), connect(proxy) as another:
                another.recv(1)
        with connect(proxy) as another:
            assert ask(another, b"two") == b"two"


def test_a_delay_keeps_the_order_and_holds_back_each_way(proxy: TcpProxy, echo: Echo) -> None:
    with connect(proxy) as connection, proxy.during(Fault.DELAYED):
        began = time.monotonic()
        connection.sendall(b"one")
        connection.sendall(b"two")
        answer = b""
        while len(answer) < 6:
            answer += connection.recv(4096)
        assert answer == b"onetwo"
        assert time.monotonic() - began >= 0.6


def test_half_open_only_the_broker_knows_that_the_connection_is_gone(
    proxy: TcpProxy, echo: Echo
) -> None:
    with connect(proxy) as connection:
        assert ask(connection, b"one") == b"one"
        proxy.inject(Fault.HALF_OPEN)
        assert echo.ended.wait(5)
        connection.sendall(b"two")
        assert is_silent(connection)
        assert echo.heard == b"one"
        with connect(proxy) as another:
            assert ask(another, b"three") == b"three"
