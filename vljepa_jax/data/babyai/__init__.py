"""babyai: videos of an agent that carries out sub-goals in a room of MiniGrid, with captions, questions and answers.

A clip shows one sub-goal (go to, pick up, drop, put next to, open, close, unlock, open a box), cut out of a chain of
them; a stream is a chain of any length. Frames are stored as tile codes and rendered by one gather from an atlas that
is stored with them, so that reading needs no minigrid (`pip install minigrid`); generating does. The set is generated
when it is first asked for.
"""

from vljepa_jax.data.babyai.questions import ACTIONS, KINDS
from vljepa_jax.data.babyai.reading import (
    HELD_OUT_PAIRS, NAME, SPLITS, WINDOWS, Clip, data_source, decode, load_atlas, sample_frames, window_frames)
from vljepa_jax.data.babyai.streams import Event, Stream, make_stream, stream_frames, stream_parts
from vljepa_jax.data.babyai.tiles import render
from vljepa_jax.data.babyai.triplets import triplets

__all__ = [
    "ACTIONS", "Clip", "Event", "HELD_OUT_PAIRS", "KINDS", "NAME", "SPLITS", "Stream", "data_source",
    "decode", "load_atlas", "make_stream", "render", "sample_frames", "stream_frames", "stream_parts", "triplets",
    "window_frames", "WINDOWS"]
