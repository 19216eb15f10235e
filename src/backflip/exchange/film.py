"""A clip as an MP4, for slides and for people without the page."""

import os
from fractions import Fraction
from pathlib import Path

import numpy as np

from backflip.envs import MissingExtra, find_task
from backflip.envs.clips import Clip, draw_segment
from backflip.exchange.bundle import ExchangeError
from backflip.rundir import RunDir
from backflip.store import Store

QUALITY = "18"
"""libx264's crf; below it, nobody sees a difference."""


def film_segment(run: RunDir, store: Store, segment: int, path: Path) -> Clip:
    """Draw a segment into an MP4 that plays as fast as it happened, and return what was drawn.

    Raises:
        StoreError: there is no such segment.
        ExchangeError: it was recorded without states, or the file cannot be written.
        MissingExtra: PyAV is not installed.
    """
    if path.suffix != ".mp4":
        raise ExchangeError(f"{path} cannot be written; a clip becomes an .mp4")
    stored = store.segments([segment], states=True)
    if stored.states.size == 0:
        raise ExchangeError(
            f"segment {segment} was recorded without states and cannot be drawn; runs that people teach record them"
        )
    clip = draw_segment(find_task(run.settings["task"]), stored.states[0], int(stored.lengths[0]))
    write_film(path, clip)
    return clip


def write_film(path: Path, clip: Clip) -> None:
    """Write a clip as H.264, whole or not at all; browsers can play it while it loads.

    Raises:
        ExchangeError: the file cannot be written.
        MissingExtra: PyAV is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise MissingExtra("MP4 needs PyAV, which is not installed: pip install 'backflip[video]'") from error
    # H.264 halves the colours' resolution, so that both sides must be even.
    height, width = clip.frames.shape[1:3]
    frames = np.pad(clip.frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), "edge")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # Its index at the front (faststart) means going back in the file, which a buffer in memory cannot.
        with av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"}) as film:
            stream = film.add_stream("libx264", rate=Fraction(clip.fps).limit_denominator(1000))
            stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
            stream.options = {"crf": QUALITY}
            for frame in frames:
                film.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            film.mux(stream.encode())
        temporary.replace(path)
    except OSError as error:
        raise ExchangeError(f"{path} cannot be written ({error}); choose another place") from error
    finally:
        temporary.unlink(missing_ok=True)
