"""compare.py BEFORE AFTER: within the ellipse that the tests select in a picture of 96 × 64 something has changed, outside it
and in transparency no pixel has. compare.py --same A B: the two are equal."""

import sys

import numpy
from PIL import Image


def pixels(path):
    return numpy.array(Image.open(path).convert("RGBA")).astype(int)


*flags, before, after = sys.argv[1:]
before, after = pixels(before), pixels(after)
assert before.shape == after.shape, (before.shape, after.shape)
changed = (before != after).any(axis=2)
if flags == ["--same"]:
    assert not changed.any(), "%d pixels differ" % changed.sum()
    sys.exit()
y, x = numpy.mgrid[: before.shape[0], : before.shape[1]]
# An ellipse of 40 × 40 from (20, 10); its border is soft, a pixel to either side.
radius = numpy.hypot(x + 0.5 - 40, y + 0.5 - 30)
assert not changed[radius > 21.5].any(), "%d pixels outside the selection differ" % changed[radius > 21.5].sum()
assert changed[radius < 19].mean() > 0.5, "little has changed within the selection"
assert (before[..., 3] == after[..., 3]).all(), "transparency differs"
difference = numpy.abs(before - after)[radius < 19][..., :3]
assert difference.mean() < 25, "that is another picture: it differs by %.1f levels" % difference.mean()
print("changed within the selection: %.0f %% of pixels, by %.1f levels; outside: none" % (100 * changed[radius < 19].mean(), difference.mean()))
