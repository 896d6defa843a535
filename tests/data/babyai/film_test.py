import numpy as np
import pytest

from vljepa_jax.data.babyai import film, make_stream, render
from vljepa_jax.data.babyai.tiles import draw_atlas
from vljepa_jax.data.video_reader import read_video

pytest.importorskip("minigrid")


def test_a_film_shows_the_stream(tmp_path, capsys):
  film.main([f"--out={tmp_path}/a.mp4", "--events=3", "--fps=5", "--seed=7"])
  stream = make_stream(7, 0, 3)
  lines = capsys.readouterr().out.splitlines()
  assert [line.split("s  ")[1] for line in lines] == [event.caption for event in stream.events]
  assert [float(line.split()[2]) for line in lines] == pytest.approx(
      [(event.end + 1) / 5 for event in stream.events], abs=0.051)
  frames = np.stack(list(read_video(f"{tmp_path}/a.mp4", 5.0)))
  drawn = render(draw_atlas(film.TILE), stream.codes)
  assert frames.shape == drawn.shape
  loss = [np.abs(shown.astype(int) - drawn).mean() for shown in (frames, np.roll(frames, 1, axis=0))]
  assert loss[0] < 1.5 and 1.5 * loss[0] < loss[1]


@pytest.mark.parametrize("arguments, message", [
    (["--out={}/a.film"], "a.film cannot be written as a video: "),
    (["--out={}/none/a.mp4"], "none/a.mp4 cannot be written as a video: "),
    (["--out={}/a.mp4", "--events=0"], "a stream needs at least one event, not 0"),
    (["--out={}/a.mp4", "--fps=0"], "a film has at least one frame a second, not 0"),
])
def test_what_cannot_be_written(tmp_path, arguments, message):
  with pytest.raises(SystemExit) as stopped:
    film.main([argument.format(tmp_path) for argument in arguments])
  assert message in stopped.value.code and "\n" not in stopped.value.code
