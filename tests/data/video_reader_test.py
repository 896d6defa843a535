import av
import numpy as np
import pytest

from tests.tiny_video import write_video
from vljepa_jax.data.video import VideoError, is_camera
from vljepa_jax.data.video_reader import read_video


def levels_of(path, fps):
  return [int(round(frame.mean() / 20)) for frame in read_video(path, fps)]


def test_frames_at_the_rate_asked_for(tmp_path):
  path = write_video(tmp_path / "a.mp4", [20 * (i // 5 + 1) for i in range(30)])  # level i in half a second i
  frames = list(read_video(path, 4.0))
  assert len(frames) == 12 and frames[0].shape == (48, 64, 3) and frames[0].dtype == np.uint8
  assert levels_of(path, 4.0) == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]
  assert levels_of(path, 1.0) == [1, 3, 5]
  assert levels_of(path, 10.0) == [i // 5 + 1 for i in range(30)]
  assert levels_of(path, 20.0) == [i // 10 + 1 for i in range(60)]
  assert levels_of(path, 0.01) == [1]


def test_timestamps_count_where_the_rate_varies(tmp_path):
  path = write_video(tmp_path / "a.mkv", [20, 40, 60, 80], [0.0, 0.2, 2.0, 2.5])
  levels = levels_of(path, 4.0)
  assert levels[:10] == [1, 2, 2, 2, 2, 2, 2, 2, 3, 3] and set(levels[10:]) == {4}


def test_a_stream_that_does_not_start_at_zero(tmp_path):
  path = write_video(tmp_path / "a.mkv", [20, 40, 60], [5.0, 5.5, 6.0])
  assert levels_of(path, 2.0)[:3] == [1, 2, 3]


@pytest.mark.parametrize("write, message", [
  (lambda path: None, "there is no video .*a.mp4"),
  (lambda path: path.write_bytes(b""), "a.mp4 is empty .0 bytes."),
  (lambda path: path.write_bytes(b"not a video" * 100), "a.mp4 cannot be read as a video"),
  (lambda path: path.mkdir(), "a.mp4 cannot be read as a video"),
])
def test_what_is_no_video(tmp_path, write, message):
  write(tmp_path / "a.mp4")
  with pytest.raises(VideoError, match=message):
    read_video(str(tmp_path / "a.mp4"), 1.0)


def test_sound_alone_is_no_video(tmp_path):
  path = tmp_path / "a.wav"
  with av.open(str(path), "w") as container:
    stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
    frame.sample_rate = 8000
    container.mux(stream.encode(frame))
    container.mux(stream.encode())
  with pytest.raises(VideoError, match="a.wav holds no video"):
    read_video(str(path), 1.0)


def test_a_camera_that_is_not_there():
  assert is_camera("97") and not is_camera("97.mp4") and not is_camera("film")
  with pytest.raises(VideoError, match=r"camera 97 \(/dev/video97\) cannot be opened: No such file"):
    read_video("97", 1.0)


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_that_makes_no_sense(fps):
  with pytest.raises(ValueError, match="fps must be positive"):
    read_video("0", fps)
