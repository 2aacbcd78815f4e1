. /test/common.sh
krita_version=$(dpkg-query -W -f '${Version}' krita)
cupscale-fast integrate krita
pictures
screen
# Krita's own switch for plug-ins, as its Python Plugin Manager sets it.
mkdir -p "$HOME/.config"
printf '[python]\nenable_cupscale=true\n' >>"$HOME/.config/kritarc"
export QT_LOGGING_RULES='*.debug=false' PYTHONPATH=/job:$HOME/.local/share/krita/pykrita XDG_RUNTIME_DIR=/tmp/run
mkdir -m 700 /tmp/run
cat >enlarging.py <<'P'
import time, traceback
from krita import Krita, Selection
import cupscale
from cupscale import cupscale_program


def expect(condition, what):
    with open("/job/test.log", "a") as log:
        print(("ok: " if condition else "NOT: ") + what, file=log)


def save(document, path):
    from krita import InfoObject
    export = InfoObject()
    export.setProperty("alpha", True)
    document.setBatchmode(True)
    document.exportImage(path, export)


def work():
    krita = Krita.instance()
    krita.setBatchmode(True)
    told = []
    tell = lambda fraction, text: told.append((fraction, text))

    document = krita.openDocument("/job/alpha.png")
    node = document.topLevelNodes()[0]
    save(document, "/job/before.png")
    selection = Selection()
    selection.select(20, 10, 40, 40, 255)
    document.setSelection(selection)
    layer, notes = cupscale.repaint(document, node, tell)
    document.waitForDone()
    expect(layer.bounds().width() == 40 and layer.parentNode() == node.parentNode(), "a layer as large as the selection")
    expect([child.type() for child in layer.childNodes()] == ["transparencymask"], "with the selection as its mask")
    expect(len(told) > 2 and told[-1][0] > 0.5, "progress: %s" % told[-1:])
    document.setSelection(None)
    node.setVisible(False)
    document.refreshProjection()
    document.waitForDone()
    save(document, "/job/layer.png")

    document.setSelection(None)
    made, notes = cupscale.enlarge(document, node, 2.0, tell, prompt="a bird", strength=0.3, seed=5)
    expect((made.width(), made.height()) == (192, 128), "a document twice as large")
    expect(made.colorDepth() == "U8" and made.colorProfile() == document.colorProfile(), "of the same depth and profile")
    made.setBatchmode(True)
    made.close()

    deep = krita.openDocument("/job/plain.png")
    deep.setColorSpace("RGBA", "U16", deep.colorProfile())
    deep.waitForDone()
    made, notes = cupscale.enlarge(deep, deep.topLevelNodes()[0], 2.0, tell)
    expect(made.colorDepth() == "U16", "16 bits stay 16 bits")

    # The dialog and its preview, as a person would use them.
    from cupscale.dialog import LAST, Dialog
    from PyQt5.QtWidgets import QApplication
    node.setVisible(True)
    dialog = Dialog(None, document, node)
    dialog.show()
    dialog._button.click()
    expect(dialog._button.text() == "Cancel the preview", "a preview is being made")
    for _ in range(600):
        QApplication.processEvents()
        if dialog._job is None:
            break
        time.sleep(0.1)
    expect(dialog._state.text() == "before | after", "a preview is shown: " + dialog._state.text())
    expect(dialog._after.pixmap().width() == 192, "twice as large")
    QApplication.processEvents()
    dialog.grab().save("/job/dialog.png")
    dialog._result.setCurrentIndex(1)
    expect(dialog.is_in_place() and not dialog._scale.isEnabled(), "at this size there is no scale")
    dialog._button.click()
    dialog._button.click()
    for _ in range(100):
        QApplication.processEvents()
        time.sleep(0.05)
    expect(dialog._state.text() == "cancelled", "a preview that is cancelled: " + dialog._state.text())
    dialog.close()
    dialog.deleteLater()
    QApplication.processEvents()

    try:
        cupscale.repaint(document, node, tell, model="no-such-model")
        expect(False, "an error")
    except cupscale_program.ProgramError as error:
        expect("no such model" in str(error) and "\n" not in str(error), "an error: %s" % error)
    try:
        cupscale.enlarge(document, node, 8.0, lambda fraction, text: fraction < 0.05)
        expect(False, "a job that is cancelled ends")
    except cupscale_program.Cancelled:
        expect(True, "a job that is cancelled ends")


def main(*_):
    try:
        work()
    except BaseException:
        expect(False, traceback.format_exc())
    open("/job/test.done", "w").close()
P
kritarunner -s enlarging -f main >runner.log 2>&1 &
appears test.done
cat test.log
! grep -q '^NOT' test.log || fail "see test.log"
python3 - <<'P'
from PIL import Image
import numpy
before, after = (numpy.array(Image.open(path).convert("RGBA")).astype(int) for path in ("before.png", "layer.png"))
inside = numpy.zeros(before.shape[:2], bool)
inside[10:50, 20:60] = True
assert (after[~inside][:, 3] == 0).all(), "the new layer reaches beyond the selection"
assert (after[..., 3] == before[..., 3])[inside].all(), "transparency differs"
seen = inside & (before[..., 3] > 128)
difference = numpy.abs(before - after)[seen][:, :3].mean()
assert 0.2 < difference < 25, difference
print("the new layer differs from what is below it by %.1f levels, within the selection alone" % difference)
P
nothing_left
echo "Krita $krita_version"
