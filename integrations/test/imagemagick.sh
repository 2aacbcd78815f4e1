. /test/common.sh
magick=$(command -v magick || command -v convert)
identify=$(command -v identify)
$magick -version | head -n 1
cupscale-fast integrate imagemagick
pictures
$magick cupscale:plain.png four.png
$magick cupscale2:alpha.png two.webp
cp plain.png "it's a \$picture; rm -rf x & <y>.png"
$magick "cupscale1:it's a \$picture; rm -rf x & <y>.png" -resize 50% one.jpg
[ "$($identify -format '%wx%h' four.png)" = 384x256 ] || fail "four.png is not four times as large"
[ "$($identify -format '%wx%h' two.webp)" = 192x128 ] || fail "two.webp is not twice as large"
[ "$($identify -format '%wx%h' one.jpg)" = 48x32 ] || fail "one.jpg is not half as large"
# The pixels are the program's own, transparency included.
cupscale-fast -q plain.png -o own.png --scale 4
cupscale-fast -q alpha.png -o own2.png --scale 2
$magick two.webp two.png
python3 /test/compare.py --same four.png own.png
python3 - <<'P'
from PIL import Image
import numpy
one, other = (numpy.array(Image.open(path).convert("RGBA")).astype(int) for path in ("two.png", "own2.png"))
assert (one[..., 3] == other[..., 3]).all(), "transparency differs"
P
# A file that is no picture ends in an error and not in a picture.
echo nonsense >broken.png
! $magick cupscale:broken.png never.png 2>error.log || fail "a broken picture was read"
[ ! -e never.png ] || fail "a broken picture was written"
cat error.log
nothing_left
echo "$($magick -version | head -n 1 | cut -d' ' -f2-3): the same pixels as the program's"
