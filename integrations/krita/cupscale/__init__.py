# Part of the integration of cupscale-fast @version@ with @integration@.
"""Tools → Scripts → Cupscale… for Krita: paints what the program `cupscale-fast` makes of a layer or selection into a new
layer above it, or opens the enlarged layer as a new document."""

import os

from krita import Extension, InfoObject, Krita

try:
    from PyQt5.QtCore import QRect, Qt
    from PyQt5.QtWidgets import QApplication, QMessageBox, QProgressDialog
except ImportError:
    from PyQt6.QtCore import QRect, Qt
    from PyQt6.QtWidgets import QApplication, QMessageBox, QProgressDialog

from . import cupscale_program
from .cupscale_program import Cancelled, Folder, Job, ProgramError

MARGIN = 64  # pixels around a selection that the program sees too, so that what it paints fits in


def write(document, node, area, path):
    """Writes `area` of a node as a PNG, with its depth and profile."""
    export = InfoObject()
    for name, value in [
        ("alpha", True),
        ("compression", 1),
        ("forceSRGB", False),
        ("indexed", False),
        ("interlaced", False),
        ("saveSRGBProfile", True),
        ("storeMetaData", False),
    ]:
        export.setProperty(name, value)
    # Dots per inch go into the file as dots per point.
    across, down = document.xRes() / 72, document.yRes() / 72
    krita = Krita.instance()
    was_silent = krita.batchmode()
    krita.setBatchmode(True)
    node.save(path, across, down, export, area)
    krita.setBatchmode(was_silent)
    # Versions of Krita differ in what `save` returns.
    if not os.path.exists(path):
        raise ProgramError("Krita could not write the layer for cupscale-fast")


def read(path):
    """The program's output as a document that is not shown."""
    document = Krita.instance().openDocument(path)
    if document is None:
        raise ProgramError("Krita could not read what cupscale-fast wrote")
    return document


def selected(document, node):
    """The rectangle around what is selected of a node; all of it within the canvas where nothing is."""
    area = node.bounds().intersected(document.bounds())
    selection = document.selection()
    if selection is not None:
        chosen = QRect(selection.x(), selection.y(), selection.width(), selection.height())
        area = area.intersected(chosen)
    if area.isEmpty():
        raise ProgramError("nothing of this layer is selected")
    return area


def repaint(document, node, tell, **options):
    """Adds a layer above the node with what the program makes of it, at its size; a selection becomes the new layer's
    mask. Returns the new layer and the program's notes."""
    area = selected(document, node)
    around = area.adjusted(-MARGIN, -MARGIN, MARGIN, MARGIN).intersected(node.bounds()).intersected(document.bounds())
    with Folder() as folder:
        source, output = folder.file("layer.png"), folder.file("repainted.png")
        write(document, node, around, source)
        job = Job(folder, source, output, cupscale_program.options(size=(around.width(), around.height()), **options))
        job.follow(tell)
        result = read(output)
    result.setColorSpace(document.colorModel(), document.colorDepth(), document.colorProfile())
    result.waitForDone()
    place = area.translated(-around.topLeft())
    pixels = result.topLevelNodes()[0].pixelData(place.x(), place.y(), place.width(), place.height())
    result.close()
    layer = document.createNode(node.name() + " (Cupscale)", "paintlayer")
    layer.setPixelData(pixels, area.x(), area.y(), area.width(), area.height())
    if document.selection() is not None:
        mask = document.createTransparencyMask("selection")
        mask.setSelection(document.selection().duplicate())
        layer.addChildNode(mask, None)
    node.parentNode().addChildNode(layer, node)
    document.refreshProjection()
    return layer, job.notes


def enlarge(document, node, scale, tell, **options):
    """A document of the enlarged node, or of the rectangle around what is selected of it, and the program's notes."""
    area = selected(document, node)
    size = max(int(area.width() * scale + 0.5), 1), max(int(area.height() * scale + 0.5), 1)
    with Folder() as folder:
        source, output = folder.file("layer.png"), folder.file("enlarged.png")
        write(document, node, area, source)
        job = Job(folder, source, output, cupscale_program.options(size=size, **options))
        job.follow(tell)
        result = read(output)
        # Its file goes away with the folder: Krita asks for a name when it is saved.
        result.setFileName("")
        result.setName(node.name() + " (Cupscale)")
        result.setModified(True)
    return result, job.notes


class Cupscale(Extension):
    def setup(self):
        pass

    def createActions(self, window):
        action = window.createAction("cupscale", "Cupscale…", "tools/scripts")
        action.triggered.connect(lambda: self.start(window))

    def start(self, window):
        document = Krita.instance().activeDocument()
        node = document.activeNode() if document is not None else None
        parent = window.qwindow()
        if node is None:
            QMessageBox.information(parent, "Cupscale", "Open a picture and choose a layer.")
            return
        from .dialog import Dialog

        dialog = Dialog(parent, document, node)
        if not dialog.ask():
            return
        progress = QProgressDialog("starting", "Cancel", 0, 1000, parent)
        progress.setWindowTitle("Cupscale")
        progress.setWindowModality(Qt.WindowModality.WindowModal)
        progress.setMinimumDuration(0)

        def tell(fraction, text):
            progress.setLabelText(text)
            progress.setValue(int(fraction * 999))
            QApplication.processEvents()
            return not progress.wasCanceled()

        try:
            if dialog.is_in_place():
                _, notes = repaint(document, node, tell, **dialog.options())
            else:
                result, notes = enlarge(document, node, dialog.scale(), tell, **dialog.options())
                window.addView(result)
        except Cancelled:
            return
        except ProgramError as error:
            QMessageBox.critical(parent, "Cupscale", str(error))
            return
        finally:
            progress.close()
        if notes:
            QMessageBox.information(parent, "Cupscale", "\n".join(notes))


if Krita.instance() is not None:
    Krita.instance().addExtension(Cupscale(Krita.instance()))
