. /test/common.sh
ffmpeg -version | head -n 1
pictures
# A film of four frames and a sound.
ffmpeg -loglevel error -f lavfi -i testsrc=size=96x64:rate=4:duration=1 -f lavfi -i sine=duration=1 -c:v ffv1 -c:a flac film.mkv
for way in pipe files; do
    sed -n "/^\`\`\`sh $way/,/^\`\`\`\$/p" /integrations/ffmpeg/README.md | sed '1d;$d' >$way.sh
    cat $way.sh
    [ -s $way.sh ] || fail "the README has no line '$way'"
    bash -euo pipefail $way.sh
    ffprobe -v error -show_entries stream=codec_type,width,height,nb_read_frames -count_frames -of csv=p=0 film_2x.mkv | tee probed
    grep -q 'video,192,128,4' probed || fail "$way: the film is not twice as large, with four frames"
    grep -q 'audio' probed || fail "$way: the sound is gone"
    mv film_2x.mkv $way.mkv
done
# Both ways paint the same.
for way in pipe files; do
    ffmpeg -loglevel error -i $way.mkv -frames:v 1 -pix_fmt rgb24 $way.png
done
ffmpeg -loglevel error -i film.mkv -frames:v 1 -pix_fmt rgb24 film.png
python3 - <<'P'
from PIL import Image
import numpy
film = numpy.array(Image.open("film.png").resize((192, 128), Image.BICUBIC)).astype(int)
pipe, files = (numpy.array(Image.open(path).convert("RGB")).astype(int) for path in ("pipe.png", "files.png"))
assert numpy.abs(pipe - files).mean() < 2, "the two ways differ"
assert numpy.abs(pipe - film).mean() < 30, "that is another film"
P
nothing_left
echo "$(ffmpeg -version | head -n 1 | cut -d' ' -f1-3): four frames enlarged, and the sound kept"
