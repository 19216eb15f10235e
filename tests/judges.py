"""A server that answers as chat-completions endpoints do, for tests."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from backflip.teachers.endpoint import KEY, MODEL, URL, Endpoint

SECRET = "sk-very-secret-0123456789"
Reply = str | tuple[int, dict[str, str], bytes]
GOOD = {URL: "https://judge.example/v1", MODEL: "m", KEY: SECRET}


class Server:
    """A chat-completions endpoint whose replies a function makes."""

    def __init__(self) -> None:
        self.reply: Callable[[Any], Reply] = lambda asked: "A"
        self.asked: list[Any] = []
        self.headers: list[dict[str, str]] = []
        self.port = 0
        self.start()

    def start(self) -> None:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append(asked)
                outer.headers.append(dict(self.headers))
                given = outer.reply(asked)
                if isinstance(given, str):
                    given = 200, {}, json.dumps({"choices": [{"message": {"content": given}}]}).encode()
                status, headers, body = given
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                """Whoever asked may have gone."""

        self._http = Quiet(("127.0.0.1", self.port), Handler)
        self.port = self._http.server_port
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(f"http://127.0.0.1:{self.port}/v1", "tiny-judge", SECRET, timeout=5)
