import numpy as np
import pytest

from vljepa_jax.data import slideshow
from vljepa_jax.data.preprocess import Preprocess
from vljepa_jax.data.slideshow import Slideshow

SIZE = 24
PREPROCESS = Preprocess("pad_square", SIZE)
COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255), (255, 0, 255)]


def plain(colours=COLOURS, shape=(30, 30)):
  """Pictures of one colour each."""
  return [np.full((*shape, 3), colour, np.uint8) for colour in colours]


def make(seed=0, pictures=None, fps=8.0, preprocess=PREPROCESS):
  pictures = plain() if pictures is None else pictures
  return Slideshow(pictures, [f"picture {i}" for i in range(len(pictures))], seed, preprocess, fps)


def test_annotations_follow_each_other():
  show = make(pictures=plain(COLOURS * 50))
  assert [a.caption for a in show.annotations] == [f"picture {i}" for i in range(300)]
  assert show.annotations[0].start == 0
  for a, b in zip(show.annotations, show.annotations[1:]):
    assert a.end == b.start
  seconds = np.array([a.end - a.start for a in show.annotations])
  assert seconds.min() >= slideshow.SHORTEST - 1e-9 and seconds.max() <= slideshow.LONGEST + 1e-9
  assert np.median(seconds) == pytest.approx(slideshow.MEDIAN_SECONDS, rel=0.15)
  assert np.log(seconds).std() == pytest.approx(slideshow.SPREAD, rel=0.2)
  assert len(show) == int(np.ceil(show.annotations[-1].end * 8))


@pytest.mark.parametrize("seed", range(3))
def test_away_from_borders_one_picture_is_seen(seed):
  show = make(seed)
  frames = np.stack(list(show))
  assert frames.shape == (len(show), SIZE, SIZE, 3) and frames.dtype == np.uint8
  borders = np.array([a.end for a in show.annotations[:-1]])
  mixed = 0
  for k, frame in enumerate(frames.astype(int)):
    i = next(i for i, a in enumerate(show.annotations) if k / 8 < a.end)
    is_mixed = np.abs(frame - COLOURS[i]).max() > 1
    assert not is_mixed or np.abs(k / 8 - borders).min() <= slideshow.FADE_SECONDS[1] / 2
    mixed += is_mixed
  assert 0 < mixed < len(show) / 4


def test_a_cross_fade_is_even_and_has_the_border_in_its_middle():
  show = make(1, fps=100.0, pictures=plain([(0, 0, 0), (200, 200, 200)] * 6))
  level = np.array([frame.mean() for frame in show])
  found = 0
  for border, fade in zip([a.end for a in show.annotations], show._fades):
    at = np.arange(int((border - 0.6) * 100), int((border + 0.6) * 100))
    rising = level[at] if level[at[0]] == 0 else 200 - level[at]
    expected = 200 * np.clip((at / 100 - border) / fade + 0.5, 0, 1) if fade else 200.0 * (at / 100 >= border)
    inside = (at / 100 > border - 0.5) & (at / 100 < border + 0.5)
    np.testing.assert_allclose(rising[inside], expected[inside], atol=1.01)
    found += fade > 0
  assert found >= 4


def test_the_camera_moves_over_the_picture():
  ramp = np.broadcast_to(np.linspace(0, 255, 120).astype(np.uint8)[None, :, None], (120, 120, 3))
  frames = np.stack(list(make(2, [ramp] * 3)))
  left, right = frames[:, :, 0, 0].astype(int), frames[:, :, -1, 0].astype(int)
  widths = (right - left)[:, 12] / 255
  low, high = np.sqrt(slideshow.VIEW_AREA)
  assert widths.min() > low - 0.1 and widths.max() < high + 0.05
  steps = np.abs(np.diff(left[:, 12]))
  assert steps.max() > 0 and np.ptp(widths) > 0.02
  assert np.median(steps) <= 3  # smoothly


def test_a_seed_gives_the_same_frames():
  picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
  one, same, other = (make(seed, [picture] * 3) for seed in (3, 3, 4))
  assert one.annotations == same.annotations != other.annotations
  np.testing.assert_array_equal(list(one), list(same))
  np.testing.assert_array_equal(list(one), list(one))


def test_pictures_are_taken_one_at_a_time():
  class Asked:
    def __init__(self):
      self.asked = []

    def __len__(self):
      return 6

    def __getitem__(self, i):
      self.asked.append(i)
      return plain()[i]

  pictures = Asked()
  frames = iter(make(0, pictures))
  next(frames)
  assert pictures.asked == [0]
  list(frames)
  assert pictures.asked == list(range(6))


def test_of_a_wide_picture_the_middle_is_seen_where_it_is_not_padded():
  picture = np.zeros((40, 120, 3), np.uint8)
  picture[:, 40:80] = 255
  frames = list(make(0, [picture], preprocess=Preprocess("imagenet", SIZE)))
  assert min(frame.min() for frame in frames) > 200


@pytest.mark.parametrize("pictures, captions, fps, message", [
    ([], [], 1.0, "a caption for each, not 0 and 0"),
    (plain(), ["one"], 1.0, "a caption for each, not 6 and 1"),
    (plain()[:1], ["one"], 0.0, "fps must be positive, not 0"),
])
def test_what_makes_no_slide_show(pictures, captions, fps, message):
  with pytest.raises(ValueError, match=message):
    Slideshow(pictures, captions, 0, PREPROCESS, fps)
