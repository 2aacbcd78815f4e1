#!/usr/bin/env python3
# Part of the integration of cupscale-fast @version@ with @integration@.
"""Filters → Enhance → Cupscale… for GIMP 3: repaints a layer or a selection, scales the image with a repainted layer, or
opens the enlarged layer as a new image. The program `cupscale-fast` does the work."""

import sys

sys.dont_write_bytecode = True  # the folder of a plug-in holds what was installed, and nothing else

import gi

gi.require_version("Gegl", "0.4")
gi.require_version("Gimp", "3.0")
from gi.repository import Gegl, Gimp, Gio, GLib, GObject

import cupscale_program
from cupscale_program import Cancelled, Folder, Job, ProgramError

PROCEDURE = "plug-in-cupscale"
MARGIN = 64  # pixels around a selection that the program sees too, so that what it paints fits in
PREVIEW = 256  # longest side of the preview

RESULTS = [
    ("new-image", "Enlarge into a new image", "The layer, or the selection's rectangle, opens as an image of its own"),
    ("scale-image", "Scale this image", "All layers are scaled, and this one is repainted; a selection limits that"),
    ("in-place", "Repaint in place", "The layer or the selection is repainted and keeps its size"),
]


def write(drawable, area, path):
    """Writes `area` (x, y, width, height; in pixels of the drawable) as a PNG with depth and profile of its image."""
    x, y, width, height = area
    image = drawable.get_image()
    copy = Gimp.Image.new_with_precision(width, height, image.get_base_type(), image.get_precision())
    try:
        profile = image.get_color_profile()
        if profile is not None:
            copy.set_color_profile(profile)
        _, across, down = image.get_resolution()
        copy.set_resolution(across, down)
        layer = Gimp.Layer.new(copy, "layer", width, height, drawable.type(), 100, Gimp.LayerMode.NORMAL)
        copy.insert_layer(layer, None, 0)
        pixels = layer.get_buffer()
        source = Gegl.Rectangle.new(x, y, width, height)
        drawable.get_buffer().copy(source, Gegl.AbyssPolicy.NONE, pixels, Gegl.Rectangle.new(0, 0, width, height))
        pixels.flush()
        export = Gimp.get_pdb().lookup_procedure("file-png-export")
        config = export.create_config()
        for name, value in [
            ("run-mode", Gimp.RunMode.NONINTERACTIVE),
            ("image", copy),
            ("file", Gio.File.new_for_path(path)),
            ("compression", 1),
            ("bkgd", False),
            ("phys", True),
            ("time", False),
            ("save-transparent", True),
            ("include-color-profile", True),
        ]:
            config.set_property(name, value)
        if export.run(config).index(0) != Gimp.PDBStatusType.SUCCESS:
            raise ProgramError("GIMP could not write the layer for cupscale-fast: " + Gimp.get_pdb().get_last_error())
    finally:
        copy.delete()


def read(path):
    """The program's output as an image."""
    try:
        return Gimp.file_load(Gimp.RunMode.NONINTERACTIVE, Gio.File.new_for_path(path))
    except GLib.Error as error:
        raise ProgramError("GIMP could not read what cupscale-fast wrote: " + error.message)


def enlarge(drawable, area, tell, **options):
    """The image that the program makes of `area`. Calls `tell(fraction, text)` meanwhile."""
    with Folder() as folder:
        source, output = folder.file("layer.png"), folder.file("enlarged.png")
        write(drawable, area, source)
        job = Job(folder, source, output, cupscale_program.options(**options))
        job.follow(tell)
        return read(output), job.notes


def paint(drawable, result, area, corner):
    """Paints `result` over the drawable from `corner` on, where `area` and the selection are. Transparency stays."""
    x, y, width, height = area
    source = Gegl.Rectangle.new(x - corner[0], y - corner[1], width, height)
    shadow = drawable.get_shadow_buffer()
    pixels = result.get_layers()[0].get_buffer()
    pixels.copy(source, Gegl.AbyssPolicy.NONE, shadow, Gegl.Rectangle.new(x, y, width, height))
    shadow.flush()
    is_free = drawable.has_alpha() and not drawable.get_lock_alpha()
    if is_free:
        drawable.set_lock_alpha(True)
    drawable.merge_shadow(True)
    if is_free:
        drawable.set_lock_alpha(False)
    drawable.update(x, y, width, height)


def repaint(image, drawable, tell, options):
    """Repaints a layer, or what is selected of it, at its size."""
    x, y, width, height = selected(drawable)
    left, top = max(x - MARGIN, 0), max(y - MARGIN, 0)
    right = min(x + width + MARGIN, drawable.get_width())
    bottom = min(y + height + MARGIN, drawable.get_height())
    around = (left, top, right - left, bottom - top)
    result, notes = enlarge(drawable, around, tell, size=around[2:], **options)
    image.undo_group_start()
    paint(drawable, result, (x, y, width, height), (left, top))
    image.undo_group_end()
    result.delete()
    return notes


def scale_image(image, drawable, scale, tell, options):
    """Scales the image, with a repainted layer; what is not selected of that is only scaled."""
    selected(drawable)
    width, height = scaled(image.get_width(), scale), scaled(image.get_height(), scale)
    across, down = width / image.get_width(), height / image.get_height()
    size = scaled(drawable.get_width(), across), scaled(drawable.get_height(), down)
    whole = (0, 0, drawable.get_width(), drawable.get_height())
    result, notes = enlarge(drawable, whole, tell, size=size, **options)
    image.undo_group_start()
    Gimp.context_push()
    Gimp.context_set_interpolation(Gimp.InterpolationType.NOHALO)
    image.scale(width, height)
    # GIMP rounds a layer's corners, and so may make it a pixel larger or smaller.
    size = drawable.get_width(), drawable.get_height()
    enlarged = result.get_layers()[0]
    if (enlarged.get_width(), enlarged.get_height()) != size:
        enlarged.scale(size[0], size[1], False)
    Gimp.context_pop()
    paint(drawable, result, selected(drawable), (0, 0))
    image.undo_group_end()
    result.delete()
    return notes


def new_image(drawable, scale, tell, options):
    """An image of the enlarged layer, or of the rectangle around what is selected of it."""
    x, y, width, height = selected(drawable)
    size = scaled(width, scale), scaled(height, scale)
    result, notes = enlarge(drawable, (x, y, width, height), tell, size=size, **options)
    layer = result.get_layers()[0]
    layer.set_name(drawable.get_name())
    result.clean_all()
    return result, notes


def scaled(pixels, scale):
    return max(int(pixels * scale + 0.5), 1)


def selected(drawable):
    """The rectangle around what is selected of a drawable; all of it where nothing is."""
    is_something, *area = drawable.mask_intersect()
    if not is_something:
        raise ProgramError("nothing of this layer is selected")
    return tuple(area)


def middle(drawable, scale):
    """A rectangle in the middle of what is selected, which becomes as large as the preview."""
    x, y, width, height = selected(drawable)
    side = max(int(PREVIEW / scale), 16)
    across, down = min(width, side), min(height, side)
    return (x + (width - across) // 2, y + (height - down) // 2, across, down)


def chosen(config):
    """Options of the program that the procedure has as well."""
    names = ["prompt", "strength", "model", "seed"]
    return {name: config.get_property(name) or ("" if name in ("prompt", "model") else 0) for name in names}


def show_progress():
    """Starts GIMP's progress bar, and returns what moves it. GIMP's own button beside it ends the plug-in."""
    Gimp.progress_init("Cupscale")
    shown = [None]

    def tell(fraction, text):
        if shown[0] != (fraction, text):
            shown[0] = (fraction, text)
            Gimp.progress_set_text("Cupscale: " + text)
            Gimp.progress_update(fraction)

    return tell


def run(procedure, run_mode, image, drawables, config, _data):
    def ended(status, text=None):
        error = GLib.Error.new_literal(Gimp.PlugIn.error_quark(), text, 0) if text else None
        return procedure.new_return_values(status, error)

    try:
        if len(drawables) != 1 or not isinstance(drawables[0], Gimp.Layer):
            raise ProgramError("choose one layer; masks and channels are not repainted")
        drawable = drawables[0]
        Gegl.init(None)
        if run_mode == Gimp.RunMode.INTERACTIVE:
            import cupscale_dialog

            if not cupscale_dialog.ask(procedure, config, drawable, write, middle, chosen):
                return ended(Gimp.PDBStatusType.CANCEL)
        result, scale = config.get_property("result"), config.get_property("scale")
        if drawable.is_group_layer() and result != "new-image":
            raise ProgramError("a group of layers has no pixels of its own: choose a layer in it")
        tell, made = show_progress(), None
        if result == "in-place":
            notes = repaint(image, drawable, tell, chosen(config))
        elif result == "scale-image":
            notes = scale_image(image, drawable, scale, tell, chosen(config))
        else:
            made, notes = new_image(drawable, scale, tell, chosen(config))
    except Cancelled:
        return ended(Gimp.PDBStatusType.CANCEL)
    except ProgramError as error:
        return ended(Gimp.PDBStatusType.EXECUTION_ERROR, str(error))
    Gimp.progress_end()
    if run_mode == Gimp.RunMode.INTERACTIVE:
        if made is not None:
            Gimp.Display.new(made)
        if notes:
            Gimp.message("\n".join(notes))
    Gimp.displays_flush()
    values = ended(Gimp.PDBStatusType.SUCCESS)
    if made is not None:
        values.remove(1)
        values.insert(1, GObject.Value(Gimp.Image, made))
    return values


class Cupscale(Gimp.PlugIn):
    def do_set_i18n(self, _name):
        return False

    def do_query_procedures(self):
        return [PROCEDURE]

    def do_create_procedure(self, name):
        procedure = Gimp.ImageProcedure.new(self, name, Gimp.PDBProcType.PLUGIN, run, None)
        procedure.set_image_types("RGB*, GRAY*")
        procedure.set_sensitivity_mask(Gimp.ProcedureSensitivityMask.DRAWABLE)
        procedure.set_menu_label("_Cupscale…")
        procedure.add_menu_path("<Image>/Filters/Enhance")
        procedure.set_documentation(
            "Enlarge or repaint a layer or selection with a diffusion model",
            "Runs the program cupscale-fast on the layer, or on what is selected of it.",
            name,
        )
        procedure.set_attribution("cupscale", "MIT OR Apache-2.0", "2026")
        both = GObject.ParamFlags.READWRITE
        choice = Gimp.Choice.new()
        for index, (value, label, help_text) in enumerate(RESULTS):
            choice.add(value, index, label, help_text)
        procedure.add_choice_argument("result", "Res_ult", "What becomes of the layer", choice, "new-image", both)
        procedure.add_double_argument("scale", "Sc_ale", "Factor for both sides", 0.1, 16, 2, both)
        procedure.add_string_argument("prompt", "_Prompt", "What the picture shows", "", both)
        procedure.add_double_argument(
            "strength", "S_trength", "How much is repainted; 0 is the model's own choice", 0, 1, 0, both
        )
        procedure.add_string_argument("model", "_Model", "Name or file of a model; empty: the embedded one", "", both)
        procedure.add_int_argument("seed", "See_d", "Another seed gives another picture", 0, 2**31 - 1, 0, both)
        procedure.add_image_return_value("new-image", "New image", "The new image, if one was asked for", True, both)
        return procedure


Gimp.main(Cupscale.__gtype__, sys.argv)
