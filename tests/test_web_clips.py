"""What the server gives of clips of poses, and whom it lets ask for a sheet."""

import hashlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.exceptions import StarletteDeprecationWarning

from backflip.envs.clips import Clip, save_sheet
from backflip.envs.poses import Posed, save_posed
from backflip.rundir import RunDir
from backflip.segments import Segments
from backflip.store import Store
from backflip.wanted import MOST, want, wanted
from backflip.web.app import create_app
from backflip.web.security import run_token

with warnings.catch_warnings():
    warnings.simplefilter("ignore", StarletteDeprecationWarning)  # it would rather have httpx2 than httpx
    from starlette.testclient import TestClient

FOR_EVER = "private, max-age=31536000, immutable"


class Site:
    """A served run with one pair of poses."""

    def __init__(self, path: Path) -> None:
        self.run = RunDir.create(path, {"seed": 1, "task": "hopper", "question": "Which?", "teacher": "people"})
        self.app = create_app(self.run, run_token(self.run))
        self.visitor = TestClient(
            self.app, base_url="http://127.0.0.1:8642", follow_redirects=False, raise_server_exceptions=False
        )
        self.visitor.get("/", params={"token": run_token(self.run)})
        segments = Segments(
            ids=np.full(2, -1, np.int64),
            observations=np.zeros((2, 4, 2), np.float32),
            actions=np.zeros((2, 4, 1), np.float32),
            true_rewards=np.zeros((2, 4), np.float32),
            states=np.zeros((2, 4, 0), np.float32),
            policy_steps=np.zeros(2, np.int64),
            lengths=np.full(2, 4, np.int64),
        )
        ids = self.store.add(segments)
        self.store.ask(ids.reshape(1, 2))
        self.clips = [self.posed(number) for number in ids.tolist()]
        for number, clip in zip(ids.tolist(), self.clips, strict=True):
            self.store.set_clip(number, clip)
        self.store.mark_drawn()

    @property
    def store(self) -> Store:
        found: Store = self.app.state.context.store
        return found

    def posed(self, number: int) -> str:
        return save_posed(self.run.clips, Posed(np.full((3, 9), number, np.float32), 20.0, b'{"parts": []}', 256))

    def next(self) -> Any:
        return self.visitor.get("/api/next").json()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path / "run")
    yield made
    made.store.close()


def test_a_pair_of_poses_says_where_everything_is(site: Site) -> None:
    [pair] = site.next()["pairs"]
    geometry = hashlib.sha256(b'{"parts": []}').hexdigest()
    left = pair["left"]
    clip = left["url"].removeprefix("/clips/")
    assert clip in site.clips
    assert left == {
        "mime": "application/x-backflip-poses",
        "frames": 3,
        "fps": 20.0,
        "frame_width": 256,
        "frame_height": 256,
        "geometry": geometry,
        "url": f"/clips/{clip}",
        "geometry_url": f"/geometries/{geometry}",
        "sheet_url": f"/api/sheets/{clip}",
    }
    poses, parts = site.visitor.get(left["url"]), site.visitor.get(left["geometry_url"])
    assert hashlib.sha256(poses.content).hexdigest() == clip
    assert len(poses.content) == 3 * 9 * 4
    assert (poses.headers["content-type"], poses.headers["cache-control"]) == (left["mime"], FOR_EVER)
    assert parts.json() == {"parts": []}
    assert (parts.headers["content-type"], parts.headers["cache-control"]) == ("application/json", FOR_EVER)


def test_only_geometries_of_the_run_are_given(site: Site) -> None:
    [file] = site.run.clips.glob("*.geometry.json")
    name = file.name.split(".")[0]
    for other in ("f" * 64, name + "0", f"..%2fclips%2f{name}", name.upper(), site.clips[0]):
        assert site.visitor.get(f"/geometries/{other}").status_code == 404
    file.unlink()
    file.symlink_to(site.run.path / "run.json")
    assert site.visitor.get(f"/geometries/{name}").status_code == 404


@pytest.mark.parametrize("damage", ["no poses", "no geometry", "no description", "half a description", "no hash"])
def test_a_pair_whose_poses_cannot_be_shown_is_passed_over(site: Site, damage: str) -> None:
    about = site.run.clips / f"{site.clips[0]}.json"
    if damage == "no poses":
        about.with_suffix(".poses").unlink()
    elif damage == "no geometry":
        next(site.run.clips.glob("*.geometry.json")).unlink()
    elif damage == "no description":
        about.unlink()
    elif damage == "half a description":
        about.write_bytes(about.read_bytes()[:40])
    else:
        about.write_text(json.dumps(json.loads(about.read_text()) | {"geometry": "../../run"}))
    told = site.next()
    assert (told["pairs"], told["passed_over"]) == ([], 1)


# ---- sheets for browsers that cannot draw


def test_a_sheet_is_noted_once_and_given_when_it_is_there(site: Site) -> None:
    clip = site.clips[0]
    assert site.visitor.get(f"/api/sheets/{clip}").json() == {"sheet": None}
    assert wanted(site.run.wanted) == [], "asking whether it is there is no wish"
    for _ in range(2):
        assert site.visitor.post("/api/sheets", json={"clip": clip}).json() == {"sheet": None}
    assert wanted(site.run.wanted) == [clip]
    assert site.visitor.get(f"/sheets/{clip}").status_code == 404
    save_sheet(site.run.clips, clip, Clip(np.zeros((3, 8, 8, 3), np.uint8), 20.0))
    sheet = site.visitor.get(f"/api/sheets/{clip}").json()["sheet"]
    assert sheet == site.visitor.post("/api/sheets", json={"clip": clip}).json()["sheet"]
    assert (sheet["url"], sheet["mime"], sheet["frames"], sheet["columns"]) == (f"/sheets/{clip}", "image/webp", 3, 2)
    picture = site.visitor.get(sheet["url"])
    assert (picture.headers["content-type"], picture.headers["cache-control"]) == ("image/webp", FOR_EVER)
    assert len(site.visitor.get(f"/clips/{clip}").content) == 3 * 9 * 4, "the clip itself is what it was"


def test_nothing_is_noted_for_what_is_no_clip_of_poses(site: Site) -> None:
    stray = site.posed(99)
    for clip, status in ((stray, 404), ("f" * 64, 404), ("../run", 422), ("F" * 64, 422), (None, 422)):
        assert site.visitor.post("/api/sheets", json={"clip": clip}).status_code == status
    (site.run.clips / f"{site.clips[0]}.poses").unlink()
    assert site.visitor.post("/api/sheets", json={"clip": site.clips[0]}).status_code == 404
    assert not site.run.wanted.exists()
    assert site.visitor.get("/api/sheets/..%2frun").status_code == 404
    assert site.visitor.get("/api/sheets/" + "0" * 63).status_code == 422


def test_notes_are_bounded_and_a_page_that_finds_no_room_hears_the_same(site: Site) -> None:
    for i in range(MOST):
        want(site.run.wanted, f"{i:064x}")
    assert site.visitor.post("/api/sheets", json={"clip": site.clips[0]}).json() == {"sheet": None}
    assert len(wanted(site.run.wanted)) == MOST


def test_a_sheet_that_is_not_whole_is_none(site: Site) -> None:
    clip = site.clips[0]
    (site.run.clips / f"{clip}.sheet.json").write_text('{"mime": "image/webp"')
    assert site.visitor.get(f"/api/sheets/{clip}").json() == {"sheet": None}
    save_sheet(site.run.clips, clip, Clip(np.zeros((3, 8, 8, 3), np.uint8), 20.0))
    (site.run.clips / f"{clip}.webp").unlink()
    assert site.visitor.get(f"/api/sheets/{clip}").json() == {"sheet": None}
    assert site.visitor.get(f"/sheets/{clip}").status_code == 404
