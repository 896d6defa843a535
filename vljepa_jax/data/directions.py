"""Words that name a direction: what they say is no longer true of a mirrored picture."""

import re

WORDS = (
    "left", "right", "leftmost", "rightmost", "leftward", "leftwards", "rightward", "rightwards", "lefthand",
    "righthand", "clockwise", "counterclockwise", "anticlockwise", "east", "west", "eastern", "western", "eastward",
    "eastwards", "westward", "westwards", "eastbound", "westbound", "northeast", "northwest", "southeast", "southwest")
_NAMED = re.compile(rf"\b({'|'.join(WORDS)})\b", re.IGNORECASE)


def names_direction(text: str) -> bool:
  """Whether a text has one of the words, whole: "on the left" and "right-handed", but not "bright"."""
  return _NAMED.search(text) is not None
