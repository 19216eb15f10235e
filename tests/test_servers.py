"""Servers for others: the name of a proxy, and the commands in compose.yaml, Dockerfile and their document."""

import functools
import http.client
import re
import shlex
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backflip.rundir import RunDir
from backflip.web.security import HEADERS, run_token
from backflip.web.server import bind, serve

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "docs" / "servers.md", ROOT / "docs" / "metrics.md"]


def compose() -> dict[str, Any]:
    yaml = pytest.importorskip("yaml")
    found: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    return found


def commands_in_compose() -> list[str]:
    found = []
    for service in compose().values():
        command = service.get("command", [])
        if "entrypoint" in service:
            found += re.findall(r"exec backflip (.*)", "\n".join(command))
        elif command:
            found.append(shlex.join(command))
    return found


def commands_in(page: Path) -> list[str]:
    blocks = re.findall(r"^```bash\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [
        line.removeprefix("backflip ") for block in blocks for line in block.splitlines() if "backflip " in line[:9]
    ]


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, Any]]:
    """parse(line) gives what a command would be called with; it is not called."""
    from backflip import cli

    called: dict[str, Any] = {}

    def recorder(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def record(**given: Any) -> None:
            called.update(given)

        return record

    for name, command in dict(cli.COMMANDS).items():
        monkeypatch.setitem(cli.COMMANDS, name, recorder(command))

    def parse(line: str) -> dict[str, Any]:
        called.clear()
        cli.main(shlex.split(line))
        return dict(called)

    return parse


@pytest.mark.parametrize("line", [line for page in PAGES for line in commands_in(page)])
def test_the_commands_of_a_document_are_ones_that_there_are(line: str, parse: Callable[[str], dict[str, Any]]) -> None:
    assert parse(line)


def test_the_commands_of_compose_are_ones_that_there_are(parse: Callable[[str], dict[str, Any]]) -> None:
    lines = commands_in_compose()
    assert [line.split()[0] for line in lines] == ["resume", "train", "serve", "serve"]
    told = [parse(line) for line in lines]
    assert {str(given["run"]) for given in told} == {"/runs/run"}
    assert {given["port"] for given in told} == {8642}
    assert all(given["allow_remote"] and given["host"] == "0.0.0.0" for given in told[2:])


def test_compose_has_a_database_and_two_servers_that_wait_for_the_trainer() -> None:
    services = compose()
    assert set(services) == {"database", "trainer", "label-1", "label-2"}
    for name in ("label-1", "label-2"):
        assert "trainer" in services[name]["depends_on"]
        assert services[name]["ports"][0].startswith("127.0.0.1:")
    assert services["label-1"]["ports"] != services["label-2"]["ports"]


def test_the_image_runs_as_nobody_in_particular_and_says_how_it_is() -> None:
    lines = (ROOT / "Dockerfile").read_text()
    assert re.findall(r"^FROM (.*)$", lines, re.MULTILINE) == ["python:3.11-slim"]
    assert re.findall(r"^USER (.*)$", lines, re.MULTILINE) == ["backflip"]
    assert "\nHEALTHCHECK " in lines
    assert "constraints.txt '.[mujoco,postgres]'" in lines


# ---- behind a proxy


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """A server behind label.example.org."""
    run = RunDir.create(tmp_path / "run", {"seed": 0, "task": "hopper"})
    run_token(run)
    stopped = threading.Event()
    with bind(port=0) as listening:
        thread = threading.Thread(
            target=serve, args=(run.path, listening, run_token(run), stopped.is_set, ["label.example.org"])
        )
        thread.start()
        yield listening.getsockname()[1]
        stopped.set()
        thread.join()


def ask(port: int, method: str, path: str, body: str | None = None, **headers: str) -> tuple[int, dict[str, str], str]:
    give_up = time.monotonic() + 20
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            return (
                response.status,
                {key.lower(): value for key, value in response.getheaders()},
                response.read().decode(),
            )
        except OSError:
            assert time.monotonic() < give_up
            time.sleep(0.02)
        finally:
            connection.close()


def test_a_proxy_that_says_its_name_gets_a_cookie_for_https_and_its_pages_may_answer(port: int, tmp_path: Path) -> None:
    token = run_token(RunDir.open(tmp_path / "run"))
    proxy = {"host": "label.example.org", "x_forwarded_proto": "https", "x_forwarded_for": "192.0.2.7"}
    status, headers, _ = ask(port, "GET", f"/label?token={token}", **proxy)
    assert status == 303
    assert "Secure" in headers["set-cookie"]
    assert "example" not in headers["location"]
    cookie = headers["set-cookie"].split(";")[0]
    status, _, said = ask(
        port,
        "POST",
        "/api/answer",
        "{}",
        **proxy,
        cookie=cookie,
        origin="https://label.example.org",
        content_type="application/json",
    )
    assert status == 422, said
    foreign = {"cookie": cookie, "content_type": "application/json", "origin": "https://evil.example.org"}
    assert ask(port, "POST", "/api/answer", "{}", **proxy, **foreign)[0] == 403
    assert ask(port, "GET", "/label", host="other.example.org", cookie=cookie)[0] == 400


@pytest.mark.parametrize(
    "nonsense", [b"\x16\x03\x01\x02\x00\x01\r\n\r\n", b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n"]
)
def test_what_is_no_http_is_refused_with_the_headers_of_every_response(port: int, nonsense: bytes) -> None:
    assert ask(port, "GET", "/label", host="label.example.org")[0] == 401  # it is up
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(nonsense)
        reply = http.client.HTTPResponse(connection)
        reply.begin()
        said = reply.read().decode()
    assert reply.status == 400
    assert {name: reply.headers[name] for name in HEADERS} == HEADERS
    assert reply.headers["cache-control"] == "no-store"
    assert said.strip()
    assert "Traceback" not in said
