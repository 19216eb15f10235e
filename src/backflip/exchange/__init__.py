"""Labels and segments out of a run and into another: one bundle, several kinds of file.

incoming.py      whatever somebody wants to import: all of it, or nothing
bundle.py        what goes from one run to another: segments, and events about pairs of them
bring.py         a bundle into a store, nothing twice
suspicion.py     what a run can take: every array that comes in is held against it
npz.py           arrays in an .npz, read without trusting it
segment_file.py  segments in one .npz, the companion of a file that speaks of them
events.py        every event as a line of JSON
table.py         the preferences that stand, as a Parquet table
episodes.py      segments as episodes of a Minari dataset, with the events pointing into them
text_files.py    pairs of texts: TRL's preferences, HH-RLHF's dialogues, best-of-four labels
bring_texts.py   these into a store, with the features that r̂ reads
clips.py         a folder of somebody's own clips
film.py          a clip as an MP4
card.py          r̂ with a page about it, for others to use
"""

from backflip.exchange.bundle import ExchangeError

__all__ = ["ExchangeError"]
