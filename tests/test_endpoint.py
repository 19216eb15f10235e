"""Where a judge is: what the environment says, and what is kept secret."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from backflip.teachers.endpoint import KEY, MODEL, URL, Endpoint, EndpointError, NotSet
from judges import GOOD, SECRET, Server


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    made = Server()
    yield made
    made.stop()


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({URL: ""}, "BACKFLIP_JUDGE_URL is not set"),
        ({MODEL: " "}, "BACKFLIP_JUDGE_MODEL is not set"),
        ({URL: "file:///etc/passwd"}, "BACKFLIP_JUDGE_URL is no address of an endpoint"),
        ({URL: "judge.example/v1"}, "BACKFLIP_JUDGE_URL is no address of an endpoint"),
        ({URL: "http://[1/v1"}, "BACKFLIP_JUDGE_URL is no address of an endpoint"),
        ({URL: "http://host:port/v1"}, "BACKFLIP_JUDGE_URL is no address of an endpoint"),
        ({URL: f"https://me:{SECRET}@judge.example"}, "put the key into BACKFLIP_JUDGE_KEY"),
        ({KEY: f"{SECRET}\nX-Other: 1"}, "BACKFLIP_JUDGE_KEY has characters that no key has"),
        ({KEY: "…"}, "BACKFLIP_JUDGE_KEY has characters that no key has"),
    ],
)
def test_what_the_environment_says_is_checked(changed: dict[str, str], sentence: str) -> None:
    with pytest.raises(NotSet) as refused:
        Endpoint.from_environment({**GOOD, **changed})
    assert sentence in str(refused.value)
    assert SECRET not in str(refused.value)


def test_an_endpoint_does_not_show_its_key() -> None:
    assert SECRET not in repr(Endpoint.from_environment(GOOD))
    assert Endpoint.from_environment({URL: GOOD[URL], MODEL: "m"}).key == ""  # a server of one's own often needs none


def test_an_address_may_end_in_the_path_or_before_it(server: Server) -> None:
    for path in ("/v1", "/v1/", "/v1/chat/completions", ""):
        assert replace(server.endpoint, url=f"http://127.0.0.1:{server.port}{path}").reply("s", "u") == "A"
    with pytest.raises(EndpointError):
        replace(server.endpoint, url="http://127.0.0.1:1/v1").reply("s", "u")
