#!/usr/bin/env python3
"""Runs the program over a folder of pictures of every kind and holds its outputs against what other programs read.

Usage: try_inputs.py FOLDER [--program cupscale-fast] [--only PATTERN] [--keep OUTPUTS]

Every file is enlarged by two into a PNG, in one step of the embedded model. Compared with what Pillow, libvips, ImageMagick,
djxl or heif-convert reads of the input are: size, upright; profile; 8 or 16 bits; alpha; grey; the mean of each colour
channel, in sRGB and where the picture is visible, to 1 % of white; and the output has to be upright, by exiftool. An output is
right if one of those programs reads the input so. A refusal has to be one line with exit code 1. Printed are the refusals,
and what differs; the exit code is 1 if anything differs.

Needs Pillow and numpy, exiftool and ImageMagick; libvips, djxl and heif-convert where they are (Debian:
libimage-exiftool-perl imagemagick libvips-tools libjxl-tools libheif-examples).
"""
import argparse, fnmatch, io, json, os, shutil, struct, subprocess, sys, tempfile
import numpy as np
from PIL import Image, ImageCms, ImageOps

Image.MAX_IMAGE_PIXELS = None
SRGB = ImageCms.createProfile('sRGB')


def run(*command, timeout=300):
    return subprocess.run(command, capture_output=True, timeout=timeout)


def magick():
    return next(name for name in ['magick', 'convert'] if shutil.which(name))


class Picture:
    """A picture as another program reads it: pixels in [0, 255] upright, alpha, grey, bits, profile."""

    def __init__(self, pixels, alpha, grey, bits, profile, how):
        self.pixels, self.alpha, self.grey, self.bits, self.profile, self.how = pixels, alpha, grey, bits, profile, how

    @property
    def size(self):
        return self.pixels.shape[1], self.pixels.shape[0]

    def mean(self):
        """Mean of each channel in sRGB where the picture is visible."""
        weight = np.ones(self.pixels.shape[:2]) if self.alpha is None else self.alpha / 255
        if weight.sum() == 0:
            return np.zeros(3)
        return (self.pixels * weight[..., None]).sum((0, 1)) / weight.sum()


def to_srgb(image, profile):
    """RGB floats of a Pillow picture without alpha, by its profile."""
    if profile:
        try:
            own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            space = own.profile.xcolor_space.strip()
            if {'RGB': 'RGB', 'GRAY': 'L', 'CMYK': 'CMYK'}.get(space) == image.mode:
                image = ImageCms.profileToProfile(image, own, SRGB, outputMode='RGB', renderingIntent=1)
        except (ImageCms.PyCMSError, OSError):
            pass
    return np.asarray(image.convert('RGB')).astype(float)


def is_srgb(profile):
    """True if a profile of RGB changes no colour of a cube by more than a level on its way to sRGB."""
    steps = np.linspace(0, 255, 9).astype(np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(27, 27, 3)
    image = Image.fromarray(cube)
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        seen = ImageCms.profileToProfile(image, own, SRGB, outputMode='RGB', renderingIntent=1)
    except (ImageCms.PyCMSError, OSError):
        return False
    return np.abs(np.asarray(seen).astype(int) - cube).max() <= 1


def by_pillow(image, bits, how):
    """A picture that Pillow has opened."""
    profile = image.info.get('icc_profile')
    grey = image.mode in ('1', 'L', 'LA', 'I', 'I;16', 'I;16B', 'F')
    has_alpha = 'A' in image.getbands() or 'transparency' in image.info
    if image.mode in ('I', 'I;16', 'I;16B'):
        image = Image.fromarray((np.asarray(image).astype(float) / 257).clip(0, 255).astype(np.uint8))
    if image.mode == 'F':
        raise OSError('floats')
    image = ImageOps.exif_transpose(image)
    alpha = None
    if has_alpha:
        rgba = image.convert('RGBA')
        alpha = np.asarray(rgba)[..., 3].astype(float)
        colours = image.convert('L') if grey else rgba.convert('RGB')
    elif image.mode in ('P', '1'):
        colours = image.convert('L' if grey else 'RGB')
    else:
        colours = image
    if colours.mode not in ('L', 'RGB', 'CMYK'):
        colours = colours.convert('RGB')
    return Picture(to_srgb(colours, profile), alpha, grey, bits, profile, how)


def depth(path):
    """Bits of a sample as exiftool says, or ImageMagick."""
    told = json.loads(run('exiftool', '-j', '-n', '-FileType', '-BitDepth', '-BitsPerSample', '-BitsPerComponent', path).stdout or b'[{}]')[0]
    if told.get('FileType') in ('BMP', 'TGA', 'ICO', 'GIF'):
        return 8
    for key in ['BitDepth', 'BitsPerSample', 'BitsPerComponent']:
        numbers = [int(n) for n in str(told.get(key, '')).replace(',', ' ').split() if n.isdigit()]
        if numbers:
            return max(numbers)
    told = run(magick(), f'{path}[0]', '-format', '%z', 'info:').stdout.split()
    return int(told[0]) if told and told[0].isdigit() else 8


def opened_by_pillow(path, bits):
    image = Image.open(path)
    while image.format == 'TIFF' and image.tag_v2.get(254, 0) & 1:
        image.seek(image.tell() + 1)
    image.load()
    if image.mode in ('F', 'LAB') or bits > 8 and image.format in ('TIFF', 'PSD'):
        raise OSError('Pillow does not read it as it is')
    return by_pillow(image, bits, 'Pillow')


def with_one_profile(path, folder):
    """A PNG without the profiles behind its first one, or the path as it is. PNG allows one iCCP, and libpng from 1.6.47 on
    keeps the first and passes over others as duplicates; older ones, and Pillow, take the last."""
    data = open(path, 'rb').read()
    if not data.startswith(b'\x89PNG') or data.count(b'iCCP') < 2:
        return path
    kept, at, has_profile = [data[:8]], 8, False
    while at + 8 <= len(data):
        end = at + 12 + int.from_bytes(data[at:at + 4], 'big')
        is_profile = data[at + 4:at + 8] == b'iCCP'
        if not (is_profile and has_profile):
            kept.append(data[at:end])
        has_profile |= is_profile
        at = end
    alone = os.path.join(folder, 'one_profile.png')
    open(alone, 'wb').write(b''.join(kept))
    return alone


def signed(path, folder):
    """A TIFF of signed samples of 8 bits by libvips, moved so that the lowest is 0; None for other files. Pillow and ImageMagick
    take signed samples for unsigned ones."""
    # As `char`, or `((VipsBandFormat) VIPS_FORMAT_CHAR)`.
    told = run('vipsheader', '-f', 'format', path).stdout if shutil.which('vipsheader') else b''
    if told.strip().rstrip(b')').split(b'_')[-1].lower() != b'char':
        return None
    made = os.path.join(folder, 'signed.png')
    run('vips', 'linear', path, made, '1', '128', '--uchar')
    return made


def references(path, folder):
    """The input as other programs read it, those that do."""
    path = with_one_profile(path, folder)
    bits = depth(path)
    moved = signed(path, folder)
    if moved:
        yield by_pillow(Image.open(moved), bits, 'libvips')
        return
    try:
        yield opened_by_pillow(path, bits)
    except Exception:
        pass
    made = os.path.join(folder, 'reference.png')
    for command in [
        ['djxl', path, made],
        ['heif-convert', path, made],
        ['vips', 'autorot', path, made],
        [magick(), f'{path}[0]', '-auto-orient', f'PNG:{made}'],
    ]:
        if os.path.exists(made):
            os.remove(made)
        if shutil.which(command[0]):
            run(*command)
        try:
            image = Image.open(made)
            image.load()
            found = by_pillow(image, bits, command[0])
            # djxl makes a profile of what a JPEG XL says in numbers (its maker is `jxl `). Where those are sRGB's there is
            # nothing to keep, and the pixels say whether they are.
            if found.profile and found.profile[4:8] == b'jxl ' and is_srgb(found.profile):
                found.profile = None
            yield found
        except Exception:
            pass


def png_chunks(path):
    """Data of the chunks of a PNG before its pixels, by their names."""
    data = open(path, 'rb').read()
    at, found = 8, {}
    if not data.startswith(b'\x89PNG'):
        return found
    while at + 8 <= len(data):
        length, = struct.unpack('>I', data[at:at + 4])
        name = data[at + 4:at + 8].decode('latin-1')
        if name == 'IDAT':
            break
        found.setdefault(name, data[at + 8:at + 8 + length])
        at += 12 + length
    return found


def compare(path, made, notes, folder):
    """What differs between an input and its output, a line each: nothing if another program reads the input so."""
    wrong = []
    out_chunks, in_chunks = png_chunks(made), png_chunks(path)
    out = Image.open(made)
    out.load()
    header = out_chunks['IHDR']
    result = by_pillow(out, header[8], 'Pillow')
    result.grey = header[9] in (0, 4)
    orientation = run('exiftool', '-s3', '-n', '-IFD0:Orientation', made).stdout.strip()
    if orientation in (b'2', b'3', b'4', b'5', b'6', b'7', b'8'):
        wrong.append(f'orientation {orientation.decode()} is left')
    for name in ['gAMA', 'cHRM', 'cICP', 'sRGB']:
        if in_chunks.get(name) != out_chunks.get(name) and 'iCCP' not in in_chunks and name in in_chunks:
            wrong.append(f'{name} is lost')
    first = None
    for source in references(path, folder):
        if 'IHDR' in in_chunks:
            source.grey = in_chunks['IHDR'][9] in (0, 4)
        differences = differ(source, result, notes)
        if not differences:
            return wrong
        first = first or differences
    return wrong + (first or ['no other program reads it'])


def differ(source, result, notes):
    wrong = []
    size = (2 * source.size[0], 2 * source.size[1])
    if result.size != size:
        wrong.append(f'size {result.size}, not {size}')
    if (source.bits > 8) != (result.bits == 16):
        wrong.append(f'{result.bits} bits from {source.bits}')
    if source.alpha is not None and source.alpha.min() < 255 and result.alpha is None:
        wrong.append('alpha is lost')
    if source.alpha is None and result.alpha is not None:
        wrong.append('alpha is made up')
    if source.grey != result.grey:
        wrong.append('grey became colour' if source.grey else 'colour became grey')
    if source.profile and result.profile != source.profile and 'profile' not in notes and 'CMYK' not in notes:
        wrong.append('the profile differs, without a note')
    if np.abs(source.mean() - result.mean()).max() > 2.55:
        told = lambda mean: ' '.join(f'{value:.1f}' for value in mean)
        wrong.append(f'mean {told(result.mean())}, by {source.how} {told(source.mean())}')
    return wrong


def enlarge_all(program, files, folder, outputs):
    """Enlarges the files as one folder with one loaded model; returns the notes on each."""
    links = os.path.join(folder, 'links')
    for path in files:
        place = os.path.join(links, os.path.basename(path))
        os.makedirs(place)
        os.symlink(os.path.abspath(path), os.path.join(place, os.path.basename(path)))
    ran = run(program, links, '-o', outputs, '-f', 'png', '--scale', '2', '--denoise-steps', '1', '--fresh',
              '--progress', 'json', timeout=7200)
    notes, current = {}, None
    for line in ran.stderr.decode(errors='replace').splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if 'input' in event:
            current = os.path.basename(event['input'])
        notes[current] = notes.get(current, '') + line + '\n'
    return notes


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('folder')
    parser.add_argument('--program', default='cupscale-fast')
    parser.add_argument('--only', default='*')
    parser.add_argument('--keep')
    arguments = parser.parse_args()
    right, refused, wrong = 0, [], []
    folder = tempfile.mkdtemp()
    outputs = arguments.keep or os.path.join(folder, 'outputs')
    os.makedirs(outputs, exist_ok=True)
    names = sorted(name for name in os.listdir(arguments.folder) if fnmatch.fnmatch(name, arguments.only))
    files = [os.path.join(arguments.folder, name) for name in names]
    files = [path for path in files if os.path.isfile(path)]
    all_notes = enlarge_all(arguments.program, files, folder, outputs)
    for path in files:
        name = os.path.basename(path)
        of_file = os.path.join(outputs, name)
        # What begins with a dot is unfinished work of a refused file.
        found = [found for found in os.listdir(of_file) if not found.startswith('.')] if os.path.isdir(of_file) else []
        made = [os.path.join(of_file, found) for found in found]
        if not made:
            alone = os.path.join(folder, 'alone.png')
            ran = run(arguments.program, path, '-o', alone, '--scale', '2', '--denoise-steps', '1', '--fresh')
            line = ran.stderr.decode(errors='replace').strip()
            if ran.returncode == 1 and line and '\n' not in line and not os.path.exists(alone):
                refused.append((name, line))
                continue
            if ran.returncode != 0:
                wrong.append((name, [f'exit code {ran.returncode}: {line[:300]}']))
                continue
            made = [alone]
        try:
            faults = compare(path, made[0], all_notes.get(name, ''), folder)
        except Exception as error:
            faults = [f'not compared: {error!r}']
        if faults:
            wrong.append((name, faults))
        else:
            right += 1
        if made[0].startswith(folder):
            os.remove(made[0])
    shutil.rmtree(folder)
    print('Refused:')
    for name, line in refused:
        print(f'  {name}: {line}')
    print('Differ:')
    for name, faults in wrong:
        for fault in faults:
            print(f'  {name}: {fault}')
    print(f'{right} right, {len(refused)} refused by name, {len(wrong)} differ')
    return 1 if wrong else 0


if __name__ == '__main__':
    sys.exit(main())
