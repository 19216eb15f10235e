"""What several test files need: a store's address on either database, a store, and segments of any shape.

Nothing of backflip is imported before a test runs: jaxtyping has to see every import.
"""

import glob
import importlib
import itertools
import multiprocessing
import os
import pwd
import re
import resource
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

# A thread each, as `make` has it: two threads for such small products wait for each other beside any other work.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

    from backflip.lm.models import Causal
    from backflip.rundir import RunDir
    from backflip.segments import Segments
    from backflip.store import Store
    from pages import Server

# No test is about how quick the machine is, and CI's may have other work.
hypothesis_settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("untimed")

START_SECONDS = 20.0


LONGEST_FIRST = ("test_loop", "test_readme", "test_pages", "test_pages_comfort", "test_cli", "test_signals")
"""Files that take longest: begun last, one of two workers would finish them while the other has nothing to do."""


def pytest_configure(config: pytest.Config) -> None:
    """Let processes that tests start come from one that has imported what they need; keep the order of files below."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False
    multiprocessing.set_forkserver_preload(["pytest", "psycopg", "backflip.store", "sqlalchemy.dialects.sqlite"])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first."""
    order = {name: i for i, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


def _cannot_have_postgres(reason: str) -> None:
    """Skip the test; in CI, where PostgreSQL has to be, fail."""
    if os.environ.get("CI"):
        pytest.fail(f"{reason}; CI must test PostgreSQL too", pytrace=False)
    pytest.skip(reason)


def _postgres_program(name: str) -> str:
    installed = sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"))
    program = shutil.which(name) or (installed[-1] if installed else None)
    if program is None:
        _cannot_have_postgres(f"no {name} on PATH or in /usr/lib/postgresql")
    return str(program)


def _postgres_user() -> dict[str, Any]:
    """Options for subprocess: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    try:
        found = pwd.getpwnam("postgres")
    except KeyError:
        _cannot_have_postgres("root cannot run PostgreSQL, and there is no user postgres")
    return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}


def _quick_folder() -> str:
    """In memory, if there is plenty of it: a server that is thrown away needs no disk."""
    memory = Path("/dev/shm")
    return str(memory) if memory.is_dir() and shutil.disk_usage(memory).free > 2**30 else "/tmp"


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of a PostgreSQL server of our own, on a socket in a temporary folder, gone at the end."""
    psycopg = pytest.importorskip("psycopg") if not os.environ.get("CI") else __import__("psycopg")
    initdb, server = _postgres_program("initdb"), _postgres_program("postgres")
    who = _postgres_user()
    home = Path(tempfile.mkdtemp(prefix="backflip-pg-", dir=_quick_folder()))
    if who:
        os.chown(home, who["user"], who["group"])
    data, socket = str(home / "data"), str(home)
    options: dict[str, Any] = {"cwd": home, "env": {**os.environ, "LC_ALL": "C"}, **who}
    create = [initdb, "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"]
    settings = ["listen_addresses=", "fsync=off", "full_page_writes=off", "shared_buffers=16MB", "max_connections=60"]
    command = [server, "-D", data, "-k", socket, *(f"-c{setting}" for setting in settings)]
    log = home / "log"
    process = None
    try:
        with log.open("wb") as output:
            subprocess.run(create, check=True, stdout=output, stderr=output, **options)
            process = subprocess.Popen(command, stdout=output, stderr=output, **options)
        address = f"postgresql://postgres@/postgres?host={socket}"
        give_up = time.monotonic() + START_SECONDS
        while True:
            try:
                psycopg.connect(address).close()
                break
            except psycopg.OperationalError:
                if process.poll() is not None or time.monotonic() > give_up:
                    pytest.fail(f"PostgreSQL did not start: {log.read_text()}", pytrace=False)
            time.sleep(0.02)
        yield address
    finally:
        if process is not None:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGQUIT)
            process.wait()
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a new store may be made: a file, or a schema of its own in PostgreSQL."""
    if request.param == "sqlite":
        return str(tmp_path / "run.db")
    import psycopg

    server: str = request.getfixturevalue("postgres")
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE SCHEMA "{name}"'.encode())
    return f"{server}&options=-csearch_path%3D{name}"


@pytest.fixture
def store(store_url: str) -> "Iterator[Store]":
    """An empty store."""
    from backflip.store import Store

    store = Store(store_url)
    yield store
    store.close()


def _make_segments(
    n: int,
    steps: int = 4,
    observation: tuple[int, ...] = (3,),
    action: tuple[int, ...] = (2,),
    state: int = 0,
    images: bool = False,
    lengths: list[int] | None = None,
    seed: int = 0,
) -> "Segments":
    from backflip.segments import Segments

    rng = np.random.default_rng(seed)
    seen = (n, steps, *observation)
    return Segments(
        ids=np.full(n, -1, np.int64),
        observations=rng.integers(0, 256, seen).astype(np.uint8) if images else rng.normal(size=seen).astype("f4"),
        actions=rng.normal(size=(n, steps, *action)).astype("f4") if action else rng.integers(0, 4, (n, steps)),
        true_rewards=rng.normal(size=(n, steps)).astype("f4"),
        states=rng.normal(size=(n, steps, state)).astype("f4"),
        policy_steps=rng.integers(0, 1000, n),
        lengths=np.full(n, steps) if lengths is None else np.array(lengths, np.int64),
    )


@pytest.fixture(scope="session")
def make_segments() -> "Callable[..., Segments]":
    """make_segments(n, steps=, observation=, action=() for discrete ones, state=, images=, lengths=, seed=)."""
    return _make_segments


def _ask_many(store: "Store", count: int, drawn: bool = True) -> list[int]:
    ids = store.add(_make_segments(2 * count))
    queries = store.ask(ids.reshape(count, 2))
    if drawn:
        with store.transaction():
            for number in ids.tolist():
                store.set_clip(number, f"clip-{number}")
            store.mark_drawn()
    return [query.id for query in queries]


@pytest.fixture(scope="session")
def ask_many() -> "Callable[..., list[int]]":
    """ask_many(store, count, drawn=True): so many new queries between new segments; their numbers."""
    return _ask_many


@contextmanager
def _nobody() -> Iterator[None]:
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture(scope="session")
def nobody() -> Callable[[], AbstractContextManager[None]]:
    """nobody() is not root for a while: root may write everywhere."""
    return _nobody


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that everybody may enter; pytest's own are private."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


@contextmanager
def _small_files(most: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.fixture(scope="session")
def small_files() -> Callable[[int], AbstractContextManager[None]]:
    """small_files(bytes): no file of this process can grow beyond that for a while, as on a disk that is full."""
    return _small_files


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """small_disk(kilobytes): a file system of that size, in memory; called again, it is resized."""
    place = tmp_path / "disk"

    def sized(kilobytes: int) -> Path:
        how = "remount," if place.exists() else ""
        place.mkdir(exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"{how}size={kilobytes}k", "tmpfs", str(place)]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode != 0:
            place.rmdir()
            pytest.skip(f"only root can make a small file system ({made.stderr.strip()})")
        return place

    yield sized
    if place.exists():
        subprocess.run(["umount", str(place)], check=True)


@pytest.fixture(scope="session")
def chromium() -> str:
    """Debian's chromium, which Playwright can drive here; else the test is skipped, and in CI it fails."""
    program = shutil.which("chromium")
    missing = "needs chromium: apt-get install chromium" if program is None else ""
    if not missing:
        from playwright._impl._driver import compute_driver_executable

        driver = compute_driver_executable()[0]
        ran = subprocess.run([driver, "--version"], capture_output=True, text=True, check=False)
        if ran.returncode != 0:  # on a bare Debian, libatomic1 is not there
            missing = f"Playwright's driver does not run ({ran.stderr.strip()}): apt-get install libatomic1"
    if missing and os.environ.get("CI"):
        pytest.fail(f"{missing}; CI must test the pages in a browser", pytrace=False)
    if missing:
        pytest.skip(missing)
    return str(program)


@pytest.fixture(scope="module")
def browser(chromium: str) -> "Iterator[Browser]":
    """A browser to look with, one for all tests of a file."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def open_page(browser: "Browser") -> "Iterator[Callable[..., Page]]":
    """open_page(server, expected="", context=None, fresh=False, **options): a page on a server, or at an address.

    Afterwards nothing may have gone wrong in any of them (but what was `expected`), and nothing may have left this
    machine. The guide stays shut, unless the visit is a `fresh` one.
    """
    from pages import read_the_guide

    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def listen(page: "Page", expected: str) -> None:
        def heard(kind: str, text: str) -> None:
            if kind == "error" and not (expected and re.search(expected, text)):
                complaints.append(text)

        def asked(url: str) -> None:
            if not re.match(r"^(http://127\.0\.0\.1:\d+/|blob:|data:|about:)", url):
                complaints.append(f"a request to {url}")

        page.on("console", lambda message: heard(message.type, message.text))
        page.on("pageerror", lambda error: heard("error", str(error)))
        page.on("request", lambda request: asked(request.url))

    def open_one(
        where: "Server | str",
        expected: str = "",
        context: "BrowserContext | None" = None,
        fresh: bool = False,
        **options: Any,
    ) -> "Page":
        if context is None:
            context = browser.new_context(**({"viewport": {"width": 1280, "height": 800}} | options))
            context.set_default_timeout(20_000)
            contexts.append(context)
            if not isinstance(where, str) and not fresh:
                read_the_guide(context, where.run)
        page = context.new_page()
        listen(page, expected)
        page.goto(where if isinstance(where, str) else where.link)
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def serve_run() -> "Iterator[Callable[..., Server]]":
    """serve_run(run, meanwhile): a run's server, once it answers; what is to be done while it starts is done."""
    from pages import Server, free_port

    servers: list[Server] = []

    def start(run: "RunDir", meanwhile: Callable[[], object] = lambda: None) -> "Server":
        server = Server(run, free_port())
        servers.append(server)
        server.start()
        meanwhile()
        server.ready()
        return server

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def serve(tmp_path: Path, serve_run: "Callable[..., Server]") -> "Callable[..., Server]":
    """serve(pairs=0, **drawing): the server of a new run with so many pairs to show."""
    from pages import add_pairs, make_run

    number = itertools.count()

    def start(pairs: int = 0, **drawing: Any) -> "Server":
        run = make_run(tmp_path / f"run-{next(number)}")
        return serve_run(run, lambda: add_pairs(run, pairs, **drawing))

    return start


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Server]":
    """A server with many pairs, for the tests that look only at what they did themselves."""
    from pages import Server, add_pairs, free_port, make_run

    run = make_run(tmp_path_factory.mktemp("shared") / "run")
    server = Server(run, free_port())
    server.start()
    add_pairs(run, 60)
    run.tell("act", state="training", steps=1_234_567, reward_version=14)
    run.tell("fit", state="fitting", comparisons=56, version=14)
    server.ready()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def miniature_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model of 33,000 weights that was trained for 30 steps, in a folder."""
    from backflip.lm.corpus import reviews
    from backflip.lm.small import Shape, save, train

    shape = Shape(vocabulary=300, width=32, layers=2, heads=2, steps=30, tokens=32)
    folder = tmp_path_factory.mktemp("models") / "miniature"
    save(train(shape, reviews(60), steps=30), folder)
    return folder


@pytest.fixture
def miniature(miniature_folder: Path) -> "Causal":
    """That model, fresh from its folder."""
    from backflip.lm.models import load

    return load(str(miniature_folder))


@pytest.fixture
def letters() -> "Causal":
    """An untrained model of four letters and an end: all of its short completions can be written down."""
    import torch
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    from backflip.lm.models import Causal
    from backflip.lm.small import END

    transformers: Any = importlib.import_module("transformers")

    made = Tokenizer(models.WordLevel({END: 0, "a": 1, "b": 2, "c": 3, "d": 4}, unk_token=END))
    made.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    made.decoder = decoders.Fuse()
    torch.manual_seed(0)
    shape = transformers.LlamaConfig(
        vocab_size=5, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        initializer_range=0.3, bos_token_id=None, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token=END, pad_token=END)
    return Causal(transformers.LlamaForCausalLM(shape).eval(), tokenizer, "letters")
