"""Commands about whom the page lets in: what they print, and how they end."""

import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

Refused = Callable[..., str]


def call(*arguments: object) -> None:
    from backflip.cli import main

    main([str(argument) for argument in arguments])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    from backflip.rundir import RunDir

    return RunDir.create(tmp_path / "run", {"seed": 1, "task": "hopper", "teacher": "people"}).path


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as ended:
        call(*arguments)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("backflip: ")
    return said


@pytest.mark.parametrize(
    ("state", "first", "said"),
    [
        ("running", "label", ""),
        ("stopped", "watch", "The run is over (stopped), so nothing more is asked; to go on: backflip resume RUN\n"),
        ("finished", "watch", "The run is over (finished), so nothing more is asked; to go on: backflip resume RUN -"),
    ],
)
def test_a_served_run_that_is_over_says_so(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, state: str, first: str, said: str
) -> None:
    from backflip.rundir import RunDir
    from backflip.web import server

    RunDir.open(run).tell("run", state=state)
    monkeypatch.setattr(server, "serve", lambda *_: None)
    call("serve", run)
    printed = capsys.readouterr().out
    assert printed.startswith(f"{first}: http://")
    assert "label: http://" in printed
    assert said.replace("RUN", str(run)) in printed if said else "over" not in printed


def test_an_invitation_is_known_to_a_served_page_at_once(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from backflip.rundir import RunDir
    from backflip.web.security import run_token
    from backflip.web.server import bind, serve

    stop = threading.Event()
    token = run_token(RunDir.open(run))
    with bind() as listening:
        page = threading.Thread(target=serve, args=(run, listening, token, stop.is_set))
        page.start()
        try:
            while not RunDir.open(run).told("page"):
                time.sleep(0.01)
            call("invite", run, "[b]ana", "--quota", "5")
            said = capsys.readouterr().out
            link = re.search(r"^\[b\]ana \(label\): (http://127\.0\.0\.1:\d+/label\?token=\S{43})$", said, re.M)
            assert link, said
            with httpx.Client(follow_redirects=True) as ana:
                assert "left-clip" in ana.get(link[1]).text
                home = link[1].split("/label")[0]
                assert ana.get(f"{home}/api/next").json()["you"]["quota"] == 5
                assert ana.get(f"{home}/run").status_code == 403
                call("revoke", run, "[b]ana")
                assert ana.get(f"{home}/api/next").status_code == 401
        finally:
            stop.set()
            page.join(20)
    assert "[b]ana is shut out." in capsys.readouterr().out


def test_a_link_names_the_address_that_visitors_see(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("invite", run, "vera", "--role", "view", "--address", "https://label.example.org/")
    said = capsys.readouterr().out
    assert "vera (view): https://label.example.org/run?token=" in said
    assert "not served yet" not in said
    call("invite", run, "vera")
    said = capsys.readouterr().out
    assert "vera (label): http://127.0.0.1:8642/label?token=" in said
    assert "not served yet" in said


def test_annotators_are_listed_with_what_they_gave(
    run: Path, ask_many: Callable[..., list[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    from backflip.preferences import Choice, Preference
    from backflip.rundir import RunDir
    from backflip.store import new_uuid

    store = RunDir.open(run).store()
    for number in ask_many(store, 3):
        store.answer(Preference(new_uuid(), number, Choice.LEFT, "ana" if number > 1 else "you"))
    store.invite("ana", quota=300)
    store.invite("[red]ben", "view")
    store.revoke("[red]ben")
    store.close()
    call("annotators", run)
    rows = [
        re.findall(r"[^│\s][^│]*[^│\s]|[^│\s]", line) for line in capsys.readouterr().out.splitlines() if "│" in line
    ]
    assert [row[:3] for row in rows] == [["you", "admin", "1"], ["[red]ben", "view", "0"], ["ana", "label", "2"]]
    assert rows[2][3] == "300"
    assert rows[1][3].startswith("shut out ")


def test_what_cannot_be_is_said(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "whoever started the run" in refused(capsys, "invite", run, "you")
    assert "'Judge' is the name of a teacher that is a program" in refused(capsys, "invite", run, "Judge")
    assert "cannot be a name" in refused(capsys, "invite", run, " ana")
    assert "a quota of 0" in refused(capsys, "invite", run, "ana", "--quota", 0)
    assert "not the address of a page" in refused(capsys, "invite", run, "ana", "--address", "label.example.org")
    assert "nobody called 'eve'" in refused(capsys, "revoke", run, "eve")
    assert "--allowed-host label.example.org" in refused(capsys, "serve", run, "--allowed-host", "https://x/")
    for command in (["invite", "ana"], ["revoke", "ana"], ["annotators"]):
        assert "no run" in refused(capsys, command[0], run.parent / "nowhere", *command[1:])


@pytest.mark.parametrize("command", ["invite", "revoke", "annotators"])
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        call(command, "--help")
    assert ended.value.code == 0
    assert "None" not in capsys.readouterr().out


def test_what_people_see_and_how_they_are_measured_is_said_when_a_run_begins(tmp_path: Path) -> None:
    from backflip.cli import _with_people
    from backflip.settings import Settings
    from backflip.teachers.people import PeopleConfig

    said = {"overlap": 0.5, "repeats": None, "gold": 0.0, "clips": "sheets"}
    settings = _with_people(Settings("hopper"), said)
    assert settings.people == PeopleConfig(overlap=0.5, gold=0.0, clips="sheets")
    assert _with_people(settings, dict.fromkeys(said)) == settings
    assert Settings.from_dict(settings.to_dict()) == settings
