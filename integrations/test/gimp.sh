. /test/common.sh
gimp-console --version
cupscale-fast integrate gimp
pictures

# Without a screen: all kinds of results, an error, and a plug-in that is killed.
cat >console.py <<'P'
import os, signal, subprocess, threading, time
from gi.repository import Gegl, Gio

Gegl.init(None)


def load(path):
    return Gimp.file_load(Gimp.RunMode.NONINTERACTIVE, Gio.File.new_for_path(path))


def save(image, path):
    export = Gimp.get_pdb().lookup_procedure("file-png-export")
    config = export.create_config()
    for name, value in [("image", image), ("file", Gio.File.new_for_path(path)), ("save-transparent", True)]:
        config.set_property(name, value)
    export.run(config)


def cupscale(image, **options):
    procedure = Gimp.get_pdb().lookup_procedure("plug-in-cupscale")
    config = procedure.create_config()
    config.set_property("run-mode", Gimp.RunMode.NONINTERACTIVE)
    config.set_property("image", image)
    config.set_core_object_array("drawables", [image.get_layers()[0]])
    for name, value in options.items():
        config.set_property(name, value)
    values = procedure.run(config)
    return [values.index(index) for index in range(values.length())]


def expect(condition, what):
    print(("ok: " if condition else "NOT: ") + what, flush=True)


SUCCESS, ERROR = Gimp.PDBStatusType.SUCCESS, Gimp.PDBStatusType.EXECUTION_ERROR
image = load("/job/alpha.png")
image.select_ellipse(Gimp.ChannelOps.REPLACE, 20, 10, 40, 40)
save(image, "/job/before.png")
count = len(Gimp.get_images())
expect(cupscale(image, result="in-place")[0] == SUCCESS, "in place")
save(image, "/job/after.png")
expect(not image.get_layers()[0].get_lock_alpha(), "transparency is not locked")
status, made = cupscale(image, result="new-image", scale=2.0, prompt="a bird", strength=0.3, seed=5)
layer = made.get_layers()[0]
expect((made.get_width(), made.get_height()) == (80, 80) and layer.has_alpha(), "a new image of the selection, 2 x")
expect(layer.get_name() == image.get_layers()[0].get_name(), "its layer has the name")
made.delete()
save(image, "/job/again.png")
Gimp.Selection.none(image)
expect(cupscale(image, result="scale-image", scale=1.7)[0] == SUCCESS, "scaled")
expect((image.get_width(), image.get_height()) == (163, 109), "the image is 1.7 x")
expect(image.get_layers()[0].get_width() == 163, "so is its layer")
status, text = cupscale(image, result="in-place", model="no-such-model")[:2]
expect(status == ERROR and "no such model" in text and "\n" not in text, "an error in a line: " + text)
expect(len(Gimp.get_images()) == count, "no image is left")

# 16 and 32 bits, grey, and a layer that is smaller than the image and not at its corner
for precision, kind, name in [
    (Gimp.Precision.U16_NON_LINEAR, Gimp.ImageBaseType.RGB, "16 bits"),
    (Gimp.Precision.FLOAT_LINEAR, Gimp.ImageBaseType.RGB, "linear floats"),
    (Gimp.Precision.U8_NON_LINEAR, Gimp.ImageBaseType.GRAY, "grey"),
]:
    other = load("/job/alpha.png")
    if kind == Gimp.ImageBaseType.GRAY:
        other.convert_grayscale()
    other.convert_precision(precision)
    layer = other.get_layers()[0]
    layer.set_offsets(7, -5)
    other.select_ellipse(Gimp.ChannelOps.REPLACE, 27, 5, 40, 40)
    area = Gegl.Rectangle.new(0, 0, 96, 64)
    form = "R'G'B'A float"
    before = bytes(layer.get_buffer().get(area, 1.0, form, Gegl.AbyssPolicy.NONE))
    ended = cupscale(other, result="in-place")[0] == SUCCESS
    after = bytes(layer.get_buffer().get(area, 1.0, form, Gegl.AbyssPolicy.NONE))
    import numpy
    before, after = (numpy.frombuffer(each, "f4").reshape(64, 96, 4) for each in (before, after))
    y, x = numpy.mgrid[:64, :96]
    radius = numpy.hypot(x + 0.5 - 40, y + 0.5 - 30)
    changed = (before != after).any(axis=2)
    expect(ended and not changed[radius > 21.5].any(), name + ": no value outside the selection has changed")
    share = changed[radius < 19].mean()
    expect(share > 0.5, name + ": what is selected has (%.2f)" % share)
    expect((before[..., 3] == after[..., 3]).all(), name + ": transparency has not")
    visible = numpy.abs(before - after)[radius < 19][..., :3].mean()
    expect(visible < 0.1, name + ": it is the same picture (%.3f)" % visible)
    other.delete()


# A plug-in that is killed, as GIMP's own Cancel does, takes the program with it.
def kill():
    for _ in range(200):
        time.sleep(0.1)
        if subprocess.run(["pgrep", "-x", "cupscale-fast"], stdout=subprocess.DEVNULL).returncode == 0:
            subprocess.run(["pkill", "-KILL", "-f", "plug-ins/cupscale/cupscale.py"])
            return


threading.Thread(target=kill).start()
expect(cupscale(image, result="new-image", scale=6.0)[0] != SUCCESS, "a plug-in that is killed ends")
open("/job/console.done", "w").close()
P
gimp-console -idf --batch-interpreter=python-fu-eval -b "exec(open('/job/console.py').read())" --quit >console.log 2>&1 || true
grep -E '^(ok|NOT)' console.log
! grep -q '^NOT' console.log || fail "see console.log"
appears console.done
python3 /test/compare.py before.png after.png | tee compared
python3 /test/compare.py --same after.png again.png
nothing_left

# With a screen: the dialog, its preview, and one step of undo.
screen
echo '(show-welcome-dialog no)' >"$HOME/.config/GIMP/3.0/gimprc"
cat >screen.py <<'P'
import os, time
exec(open("/job/console.py").read().split("SUCCESS, ERROR")[0])
image = load("/job/alpha.png")
Gimp.Display.new(image)
image.select_ellipse(Gimp.ChannelOps.REPLACE, 20, 10, 40, 40)
image.clean_all()
procedure = Gimp.get_pdb().lookup_procedure("plug-in-cupscale")
config = procedure.create_config()
config.set_property("run-mode", Gimp.RunMode.INTERACTIVE)
config.set_property("image", image)
config.set_core_object_array("drawables", [image.get_layers()[0]])
config.set_property("result", "in-place")
expect(procedure.run(config).index(0) == Gimp.PDBStatusType.SUCCESS, "by the dialog")
save(image, "/job/screen-after.png")
expect(image.is_dirty(), "the image has changed")
open("/job/repainted", "w").close()
while not os.path.exists("/job/undone"):
    time.sleep(0.2)
save(image, "/job/screen-undone.png")
expect(not image.is_dirty(), "one step of undo takes all of it back")
open("/job/screen.done", "w").close()
P
gimp -ns --batch-interpreter=python-fu-eval -b "exec(open('/job/screen.py').read())" >screen.log 2>&1 &
dialog=$(window '^Cupscale$')
sleep 3
eval "$(xdotool getwindowgeometry --shell "$dialog")"
xdotool mousemove $((X + WIDTH / 2)) $((Y + 248)) click 1
sleep 12
import -window root dialog.png
xdotool windowactivate "$dialog"
sleep 1
xdotool key alt+o
appears repainted
xdotool windowactivate "$(window '8-bit')"
sleep 1
import -window root repainted.png
xdotool key --clearmodifiers ctrl+z
sleep 2
touch undone
appears screen.done
grep -E '^(ok|NOT)' screen.log
! grep -q '^NOT' screen.log || fail "see screen.log"
python3 /test/compare.py before.png screen-after.png
python3 /test/compare.py --same before.png screen-undone.png
kill %3 2>/dev/null || true
nothing_left

cupscale-fast integrate gimp --remove
[ ! -e "$HOME/.config/GIMP/3.0/plug-ins/cupscale" ] || fail "the plug-in's folder is left: $(ls -A "$HOME/.config/GIMP/3.0/plug-ins/cupscale")"
echo "$(gimp-console --version 2>/dev/null): $(cat compared); one step of undo"
