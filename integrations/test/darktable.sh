. /test/common.sh
version=$(darktable --version 2>/dev/null | grep -o 'darktable [0-9][0-9.]*' | head -n 1) || true
echo "$version"
cupscale-fast integrate darktable
pictures
screen
mkdir pictures
python3 - <<'P'
from PIL import Image
Image.open("/samples/nuthatch.jpg").convert("RGB").crop((120, 100, 280, 200)).save("pictures/bird.jpg", quality=95)
P
cat >test.lua <<'P'
local dt = require "darktable"
local function expect(condition, what)
  print((condition and "ok: " or "NOT: ") .. what)
  io.stdout:flush()
end
local function dispatched()
  local cupscale = require "cupscale"
  dt.preferences.write("cupscale", "scale", "string", "2")
  local image = dt.database.import("/job/pictures/bird.jpg")
  dt.tags.attach(dt.tags.create("garden|birds"), image)
  -- as the button does
  expect(cupscale.enlarge_images { image } == 1, "the button's work")
  local new
  for _, each in ipairs(dt.database) do
    if each.filename == "bird_cupscale.tif" then
      new = each
    end
  end
  expect(new ~= nil, "it is in the collection")
  expect(new.group_leader == image.group_leader, "grouped with the original")
  local is_tagged = false
  for _, tag in ipairs(dt.tags.get_tags(new)) do
    is_tagged = is_tagged or tag.name == "garden|birds"
  end
  expect(is_tagged, "with its tags")
  -- as the export module does
  local storage = dt.new_storage("cupscale")
  local format = dt.new_format("png")
  format.bpp, format.max_width, format.max_height = 16, 0, 0
  expect(storage ~= nil, "the storage is there: " .. tostring(storage and storage.name))
  expect(storage:supports_format(format), "it takes PNG")
  expect(not storage:supports_format(dt.new_format("exr")), "and no OpenEXR")
  dt.preferences.write("cupscale", "scale", "string", "3")
  dt.preferences.write("cupscale", "prompt", "string", "a bird's \"head\" $HOME")
  format:write_image(image, "/job/exported.png", false)
  local made = cupscale.enlarge(image, "/job/exported.png")
  expect(made and made.filename == "bird_cupscale.png", "a PNG beside the original")
  -- an error, in a line
  dt.preferences.write("cupscale", "model", "string", "no-such-model")
  format:write_image(image, "/job/exported.png", false)
  local none, wrong = cupscale.enlarge(image, "/job/exported.png")
  expect(none == nil and wrong:find("no such model") and not wrong:find("\n"), "an error: " .. tostring(wrong))
  local file = io.open("/job/test.done", "w")
  file:close()
end
dt.control.dispatch(function()
  local is_fine, wrong = pcall(dispatched)
  if not is_fine then
    print("NOT: " .. tostring(wrong))
    io.open("/job/test.done", "w"):close()
  end
end)
P
darktable --library :memory: --configdir "$HOME/.config/darktable" --cachedir /job/cache --disable-opencl -d lua --conf write_sidecar_files=never \
    --luacmd 'dofile("/job/test.lua")' >test.log 2>&1 &
appears test.done
sleep 2
import -window root window.png
grep -E '^(ok|NOT)' test.log
! grep -q '^NOT' test.log || fail "see test.log"
python3 - <<'P'
from PIL import Image
import numpy
source = Image.open("pictures/bird.jpg")
for path, factor in [("pictures/bird_cupscale.tif", 2), ("pictures/bird_cupscale.png", 3)]:
    made = Image.open(path)
    assert made.size == (160 * factor, 100 * factor), (path, made.size)
P
identify -format '%f %m %wx%h %z bits, %[profile:icc]\n' pictures/bird_cupscale.*
[ "$(identify -format '%z' pictures/bird_cupscale.tif)" = 16 ] || fail "the TIFF has no 16 bits"
[ "$(ls pictures | sort | tr '\n' ' ')" = "bird.jpg bird_cupscale.png bird_cupscale.tif " ] || fail "more is there: $(ls pictures)"
[ ! -e exported.png ] || fail "the exported file is left"
nothing_left
echo "$version: module and export storage"
