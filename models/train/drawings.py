"""Draws the test pictures that are no photographs: truths, and their inputs reduced 4 x by area.

Writes OUT/NAME.png (truth) and OUT/NAME_low.png, as heldout.py does: a comic panel (flat colours, ink outlines), a program's window
(panels, hair lines, small letters), a printed page, an ink drawing (thin strokes, hatching), a chart. All are drawn four times as
large and reduced, so that edges are smooth.
"""
import argparse
import math
import pathlib

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIZE, OVER = (640, 448), 4
WORDS = ("Enlarged pictures keep their edges: letters stay letters, lines stay lines, and paper stays white. What nobody "
         "drew should not appear, neither grain nor colour.").split()


class Canvas:
    """A drawing in the truth's pixels on a surface four times as large."""

    def __init__(self, paper):
        self.image = Image.new("RGB", (SIZE[0] * OVER, SIZE[1] * OVER), paper)
        self.draw = ImageDraw.Draw(self.image)

    def area(self, points, colour, ink=0, outline=(20, 20, 24)):
        points = [(x * OVER, y * OVER) for x, y in points]
        self.draw.polygon(points, fill=colour)
        if ink:
            self.draw.line(points + points[:2], fill=outline, width=round(ink * OVER), joint="curve")

    def box(self, x, y, w, h, colour, ink=0, outline=(20, 20, 24)):
        self.area([(x, y), (x + w, y), (x + w, y + h), (x, y + h)], colour, ink, outline)

    def disc(self, x, y, rx, ry, colour, ink=0):
        self.area([(x + rx * math.cos(a), y + ry * math.sin(a)) for a in np.linspace(0, 2 * math.pi, 160)], colour, ink)

    def stroke(self, points, colour, width):
        self.draw.line([(x * OVER, y * OVER) for x, y in points], fill=colour, width=max(1, round(width * OVER)), joint="curve")

    def text(self, x, y, words, size, colour):
        self.draw.text((x * OVER, y * OVER), words, fill=colour, font=ImageFont.load_default(size * OVER))

    def done(self):
        return self.image.resize(SIZE, Image.BOX)


def comic():
    c = Canvas((126, 196, 230))
    c.disc(520, 90, 52, 52, (252, 214, 74), 3)
    c.area([(0, 300), (150, 190), (300, 280), (430, 200), (640, 310), (640, 448), (0, 448)], (104, 172, 92), 3.5)
    c.box(90, 210, 150, 150, (232, 106, 84), 3.5)
    c.area([(75, 212), (165, 130), (255, 212)], (126, 62, 58), 3.5)
    c.box(145, 280, 44, 80, (246, 232, 206), 3)
    c.disc(420, 280, 58, 66, (248, 208, 176), 3.5)
    for x in (398, 442):
        c.disc(x, 268, 9, 13, (255, 255, 255), 2)
        c.disc(x + 2, 270, 4, 6, (20, 20, 24))
    c.stroke([(396, 310), (410, 322), (430, 322), (446, 308)], (20, 20, 24), 3)
    c.area([(362, 262), (372, 216), (420, 200), (470, 216), (478, 262), (450, 236), (400, 236)], (66, 44, 40), 3)
    c.disc(260, 70, 110, 44, (255, 255, 255), 2.5)
    c.text(180, 52, "Look at that!", 30, (20, 20, 24))
    return c.done()


def window():
    c = Canvas((236, 238, 241))
    c.box(0, 0, 640, 34, (58, 66, 82))
    c.text(14, 8, "Pictures - 24 files", 15, (240, 240, 244))
    c.box(0, 34, 150, 414, (248, 249, 251))
    c.stroke([(150, 34), (150, 448)], (200, 204, 210), 1)
    for i, name in enumerate(("Library", "Favourites", "Shared", "Recently added", "Bin")):
        if i == 1:
            c.box(6, 48 + 30 * i, 138, 26, (214, 228, 250))
        c.text(18, 52 + 30 * i, name, 14, (40, 44, 52))
    for i in range(3):
        for j in range(2):
            x, y = 172 + 154 * i, 56 + 170 * j
            c.box(x, y, 138, 120, ((188, 92, 70), (70, 130, 180), (214, 176, 84), (96, 150, 96), (130, 110, 160), (60, 64, 72))[i + 3 * j])
            c.text(x, y + 126, f"IMG_{2031 + i + 3 * j}.png", 12, (60, 64, 72))
    c.box(500, 406, 120, 30, (38, 112, 220))
    c.text(534, 412, "Enlarge", 14, (255, 255, 255))
    c.stroke([(150, 396), (640, 396)], (200, 204, 210), 1)
    return c.done()


def page():
    c = Canvas((255, 255, 255))
    c.text(48, 30, "On keeping edges", 34, (0, 0, 0))
    c.stroke([(48, 78), (592, 78)], (0, 0, 0), 1)
    for size, top, lines in ((19, 92, 5), (14, 222, 6), (11, 350, 6)):
        words, at = WORDS * 6, 0
        for i in range(lines):
            line = ""
            while len(line) < 900 / size:
                line, at = line + words[at % len(words)] + " ", at + 1
            c.text(48, top + i * size * 1.28, line, size, (0, 0, 0))
    return c.done()


def ink():
    c, rng = Canvas((255, 255, 255)), np.random.default_rng(3)
    for i in range(7):
        y = 60 + 18 * i
        c.stroke([(x, y + 14 * math.sin(x / 60 + i / 2)) for x in range(20, 620, 4)], (0, 0, 0), 0.8 + 0.3 * i)
    for i in range(60):
        x = 30 + 5 * i
        c.stroke([(x, 230), (x + 60, 400)], (0, 0, 0), 1)
    for radius in range(8, 96, 8):
        c.stroke([(500 + radius * math.cos(a), 320 + radius * math.sin(a)) for a in np.linspace(0, 2 * math.pi, 120)], (0, 0, 0), 1.5)
    for _ in range(24):
        x, y = rng.uniform(380, 420), rng.uniform(230, 410)
        c.stroke([(x, y), (x + rng.uniform(-20, 20), y - rng.uniform(10, 40))], (0, 0, 0), 2)
    return c.done()


def chart():
    c = Canvas((255, 255, 255))
    for i in range(6):
        c.stroke([(70, 380 - 60 * i), (610, 380 - 60 * i)], (222, 222, 222), 1)
        c.text(30, 372 - 60 * i, str(20 * i), 13, (70, 70, 70))
    for i, value in enumerate((230, 120, 275, 180, 90, 310)):
        c.box(90 + 86 * i, 380 - value, 44, value, ((31, 119, 180), (255, 127, 14))[i % 2])
        c.text(92 + 86 * i, 388, f"Q{i + 1}", 14, (70, 70, 70))
    c.stroke([(70, 380), (610, 380)], (0, 0, 0), 1.5)
    c.stroke([(112 + 86 * i, 380 - v) for i, v in enumerate((200, 160, 220, 210, 130, 250))], (44, 160, 44), 2.5)
    c.text(70, 30, "Seconds per picture", 20, (0, 0, 0))
    return c.done()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--scale", type=int, default=4)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for drawing in (comic, window, page, ink, chart):
        truth = drawing()
        truth.save(args.out / f"{drawing.__name__}.png")
        truth.resize((SIZE[0] // args.scale, SIZE[1] // args.scale), Image.BOX).save(args.out / f"{drawing.__name__}_low.png")


if __name__ == "__main__":
    main()
