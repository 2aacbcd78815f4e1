# Part of the integration of cupscale-fast @version@ with @integration@.
"""The dialog of the plug-in for GIMP 3: its options, and a preview of the middle of the layer."""

import gi

gi.require_version("GimpUi", "3.0")
gi.require_version("Gtk", "3.0")
from gi.repository import GdkPixbuf, GimpUi, GLib, GObject, Gtk

import cupscale_program
from cupscale_program import Folder, Job, ProgramError


class Preview(Gtk.Box):
    """A button, and the middle of the layer before and after."""

    def __init__(self, config, drawable, write, middle, chosen):
        super().__init__(orientation=Gtk.Orientation.VERTICAL, spacing=6)
        self._config, self._drawable = config, drawable
        self._write, self._middle, self._chosen = write, middle, chosen
        self._job = self._folder = None
        self._button = Gtk.Button(label="Preview the middle")
        self._button.connect("clicked", self._clicked)
        self._bar = Gtk.ProgressBar(show_text=True, text="before | after")
        self._before, self._after = Gtk.Image(), Gtk.Image()
        pictures = Gtk.Box(spacing=6, halign=Gtk.Align.CENTER)
        pictures.pack_start(self._before, False, False, 0)
        pictures.pack_start(self._after, False, False, 0)
        for each in (self._button, self._bar, pictures):
            self.pack_start(each, False, False, 0)

    def _clicked(self, _button):
        if self._job is not None:
            self._job.cancel()
            return
        scale = 1 if self._config.get_property("result") == "in-place" else self._config.get_property("scale")
        self._folder = Folder()
        source, output = self._folder.file("before.png"), self._folder.file("after.png")
        try:
            self._write(self._drawable, self._middle(self._drawable, scale), source)
            words = cupscale_program.options(scale=scale, **self._chosen(self._config))
            self._job = Job(self._folder, source, output, words)
        except ProgramError as error:
            self._end(str(error))
            return
        self._button.set_label("Cancel the preview")
        GLib.timeout_add(100, self._watch, source, output)

    def _watch(self, source, output):
        if self._job is None:
            return GLib.SOURCE_REMOVE
        if self._job.is_running():
            self._bar.set_fraction(self._job.fraction)
            self._bar.set_text(self._job.text)
            return GLib.SOURCE_CONTINUE
        try:
            self._job.finish()
            after = GdkPixbuf.Pixbuf.new_from_file(output)
            before = GdkPixbuf.Pixbuf.new_from_file(source)
            size = after.get_width(), after.get_height()
            self._before.set_from_pixbuf(before.scale_simple(*size, GdkPixbuf.InterpType.BILINEAR))
            self._after.set_from_pixbuf(after)
            self._end("before | after")
        except (ProgramError, GLib.Error) as error:
            self._end(str(error))
        return GLib.SOURCE_REMOVE

    def _end(self, text):
        self._folder.__exit__()
        self._job = self._folder = None
        self._bar.set_fraction(0)
        self._bar.set_text(text)
        self._button.set_label("Preview the middle")

    def stop(self):
        """Ends a preview that is being made."""
        if self._job is not None:
            self._job.cancel()
            try:
                self._job.finish()
            except ProgramError:
                pass
            self._end("")


def model_row(config):
    """A field for the model, which offers the installed ones."""
    box = Gtk.ComboBoxText.new_with_entry()
    for name in cupscale_program.models():
        box.append_text(name)
    entry = box.get_child()
    entry.set_placeholder_text("the embedded model")
    flags = GObject.BindingFlags.BIDIRECTIONAL | GObject.BindingFlags.SYNC_CREATE
    config.bind_property("model", entry, "text", flags)
    row = Gtk.Box(spacing=6)
    label = Gtk.Label(label="_Model", use_underline=True, mnemonic_widget=entry)
    row.pack_start(label, False, False, 0)
    row.pack_start(box, True, True, 0)
    return row


def ask(procedure, config, drawable, write, middle, chosen):
    """Shows the dialog; true where the user wants the job."""
    GimpUi.init("cupscale")
    dialog = GimpUi.ProcedureDialog.new(procedure, config, "Cupscale")
    dialog.fill(["result", "scale", "prompt", "strength", "seed"])
    preview = Preview(config, drawable, write, middle, chosen)
    box = dialog.get_content_area()
    for each in (model_row(config), preview):
        each.set_border_width(6)
        each.show_all()
        box.pack_start(each, False, False, 0)

    def follow_result(*_):
        dialog.get_widget("scale", GObject.TYPE_NONE).set_sensitive(config.get_property("result") != "in-place")

    config.connect("notify::result", follow_result)
    follow_result()
    is_wanted = dialog.run()
    preview.stop()
    dialog.destroy()
    return is_wanted
