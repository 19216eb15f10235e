"""Commands about the page: serving it, and whom it lets in."""

import time
from contextlib import closing
from typing import Annotated, Literal
from urllib.parse import urlsplit

import tyro
from rich.table import Table

from backflip.accounts import OWNER, accounts
from backflip.rundir import RunDir
from backflip.showings import answers_given
from backflip.terminal import Number, Run, Unusable, ending, out

Name = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
Text = tyro.conf.arg(metavar="URL", help_behavior_hint="")
OVER = ("finished", "stopped", "failed")
"""What a run that has ended says of itself; until then it is running, or was killed."""
Hosts = tyro.conf.arg(metavar="NAME", help_behavior_hint="")


def serve_run(
    run: Run,
    host: str = "127.0.0.1",
    port: Number = None,
    allow_remote: bool = False,
    allowed_host: Annotated[tuple[str, ...], Hosts] = (),
) -> None:
    """Serve a run's pages, without training.

    Args:
        run: the run directory.
        host: the address to listen on.
        port: the port; by default the first free one from 8642.
        allow_remote: let other machines connect; whoever has the link can answer.
        allowed_host: names under which a reverse proxy in front passes visitors on.
    """
    from backflip.web.security import run_token
    from backflip.web.server import bind, link, serve

    directory = RunDir.open(run)
    directory.store(check=True).close()
    with bind(host, port, allow_remote) as listening, ending() as ended:
        token = run_token(directory)
        links = [f"{name}: {link(listening, token, page)}" for name, page in (("label", "/label"), ("watch", "/run"))]
        state = directory.told("run").get("state")
        over = state in OVER
        out.print("\n".join(reversed(links) if over else links), soft_wrap=True)
        if over:
            more = " --steps N" if state == "finished" else ""
            _say(f"The run is over ({state}), so nothing more is asked; to go on: backflip resume {run}{more}")
        serve(run, listening, token, ended.is_set, allowed_host)


def score_run(
    run: Run,
    host: str = "127.0.0.1",
    port: Number = None,
    allow_remote: bool = False,
    allowed_host: Annotated[tuple[str, ...], Hosts] = (),
) -> None:
    """Serve the newest reward of a run of texts to other trainers: POST /score, as OpenRLHF's clients send it.

    Args:
        run: the run directory; it may go on meanwhile.
        host: the address to listen on.
        port: the port; by default the first free one from 8642.
        allow_remote: let other machines connect; whoever has the link can ask.
        allowed_host: names under which a reverse proxy in front passes visitors on.
    """
    from backflip.lm.score import serve_scores
    from backflip.web.security import run_token
    from backflip.web.server import bind, link

    directory = RunDir.open(run)
    directory.store(check=True).close()
    with bind(host, port, allow_remote) as listening, ending() as ended:
        token = run_token(directory)
        address = f"score: {link(listening, token, '/score')}"
        serve_scores(directory, listening, token, ended.is_set, allowed_host, lambda: _say(address))


def invite(
    run: Run,
    name: Name,
    role: Literal["label", "view", "admin"] = "label",
    quota: Number = None,
    address: Annotated[str | None, Text] = None,
) -> None:
    """Let somebody in, and print the link for them; a served page knows of it at once.

    Whoever was invited before gets a new link, and the old one ends; their answers stay theirs.

    Args:
        run: the run directory.
        name: under which their answers are stored.
        role: label answers, view watches the run, admin does both and invites others.
        quota: answers that are wanted of them; by default as many as they like.
        address: the page's address as they see it; by default where it was last served.
    """
    from backflip.web.admin import path_of
    from backflip.web.server import FIRST_PORT, PAGE

    directory = RunDir.open(run)
    if address is not None and (urlsplit(address).scheme not in ("http", "https") or not urlsplit(address).netloc):
        raise Unusable(f"{address!r} is not the address of a page; say it whole: --address https://label.example.org")
    served = directory.told(PAGE).get("address")
    with closing(directory.store()) as store:
        token = store.invite(name, role, quota)
    home = (address or served or f"http://127.0.0.1:{FIRST_PORT}").rstrip("/")
    _say(f"{name} ({role}): {home}{path_of(role, token)}")
    if not (address or served):
        _say(
            f"The page is not served yet: backflip serve {run}. Should its port be another then, change it in the link."
        )
    _say("The link is shown this once; whoever has it can use it. To end it: backflip revoke RUN NAME")


def revoke(run: Run, name: Name) -> None:
    """Shut somebody out, from their next request on; their answers stay.

    Args:
        run: the run directory.
        name: under which they were invited.
    """
    with closing(RunDir.open(run).store()) as store:
        store.revoke(name)
    _say(f"{name} is shut out.")


def annotators(run: Run) -> None:
    """List who was invited, and how much they have answered.

    Args:
        run: the run directory.
    """
    with closing(RunDir.open(run).store()) as store, store.reading() as c:
        rows = [(a.name, a.role, a.quota, answers_given(c, a.name), a.revoked_at) for a in accounts(c)]
        own = answers_given(c, OWNER)
    table = Table("name", "role", "answers", "of", "")
    for name, role, quota, given, revoked_at in [(OWNER, "admin", None, own, None), *rows]:
        ended = "" if revoked_at is None else f"shut out {time.strftime('%Y-%m-%d %H:%M', time.localtime(revoked_at))}"
        table.add_row(_plain(name), role, f"{given:,}", "" if quota is None else f"{quota:,}", ended)
    out.print(table)


def _plain(name: str) -> str:
    """A name as it is: rich would read what stands in brackets as a style."""
    from rich.markup import escape

    return escape(name)


def _say(sentence: str) -> None:
    out.print(sentence, markup=False, highlight=False, soft_wrap=True)
