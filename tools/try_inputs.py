#!/usr/bin/env python3
"""Runs the program over a folder of pictures of every kind and holds its outputs against what other programs read.

Usage: try_inputs.py FOLDER [--program cupscale-fast] [--model MODEL] [--only PATTERN] [--keep OUTPUTS]

Every file is enlarged by two into a PNG, in one step (the model of tests/fixtures/img2img is small and fast). The input is read by Pillow or, where that does not
read it, by libvips or ImageMagick; the output by Pillow. Compared are: size, upright; profile; 8 or 16 bits; alpha; grey;
orientation of the output, by exiftool; the mean of each colour channel, in sRGB and where the picture is visible, to 1 % of
white. A refusal has to be one line with exit code 1. Printed are the refusals, and what differs; the exit code is 1 if
anything differs.

Needs Pillow and numpy, and exiftool, ImageMagick and libvips (Debian: libimage-exiftool-perl imagemagick libvips-tools).
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
    told = json.loads(run('exiftool', '-j', '-n', '-BitDepth', '-BitsPerSample', '-BitsPerComponent', path).stdout or b'[{}]')[0]
    for key in ['BitDepth', 'BitsPerSample', 'BitsPerComponent']:
        numbers = [int(n) for n in str(told.get(key, '')).replace(',', ' ').split() if n.isdigit()]
        if numbers:
            return max(numbers)
    told = run(magick(), f'{path}[0]', '-format', '%z', 'info:').stdout.split()
    return int(told[0]) if told and told[0].isdigit() else 8


def reference(path, folder):
    """The input as another program reads it."""
    bits = depth(path)
    failures = []
    try:
        image = Image.open(path)
        image.load()
        if not (image.format == 'TIFF' and image.mode in ('F', 'LAB', 'YCbCr')) and not (bits > 8 and image.format in ('TIFF', 'PSD')):
            return by_pillow(image, bits, 'Pillow')
    except Exception as error:
        failures.append(str(error))
    made = os.path.join(folder, 'reference.png')
    for command in [
        ['vips', 'autorot', path, made],
        [magick(), f'{path}[0]', '-auto-orient', f'PNG:{made}'],
    ]:
        if not shutil.which(command[0]):
            continue
        if os.path.exists(made):
            os.remove(made)
        made_by = run(*command)
        if os.path.exists(made):
            try:
                image = Image.open(made)
                image.load()
                return by_pillow(image, bits, command[0])
            except Exception as error:
                failures.append(str(error))
        else:
            failures.append(made_by.stderr.decode(errors='replace').strip()[:200])
    raise OSError('; '.join(failures))


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
    """What differs between an input and its output, a line each."""
    wrong = []
    out_chunks, in_chunks = png_chunks(made), png_chunks(path)
    out = Image.open(made)
    out.load()
    header = out_chunks['IHDR']
    result = by_pillow(out, header[8], 'Pillow')
    result.grey = header[9] in (0, 4)
    orientation = run('exiftool', '-s3', '-n', '-IFD0:Orientation', made).stdout.strip()
    if orientation not in (b'', b'1'):
        wrong.append(f'orientation {orientation.decode()} is left')
    for name in ['gAMA', 'cHRM', 'cICP', 'sRGB']:
        if in_chunks.get(name) != out_chunks.get(name) and 'iCCP' not in in_chunks and name in in_chunks:
            wrong.append(f'{name} is lost')
    try:
        source = reference(path, folder)
    except OSError as error:
        return wrong + [f'no other program reads it ({error})']
    size = (2 * source.size[0], 2 * source.size[1])
    if result.size != size:
        wrong.append(f'size {result.size}, not {size}')
    if (source.bits > 8) != (header[8] == 16):
        wrong.append(f'{header[8]} bits from {source.bits}')
    if (source.alpha is None) != (result.alpha is None):
        wrong.append('alpha is ' + ('lost' if result.alpha is None else 'made up'))
    if source.grey != result.grey:
        wrong.append('grey became colour' if source.grey else 'colour became grey')
    if source.profile and result.profile != source.profile and 'profile' not in notes and 'CMYK' not in notes:
        wrong.append('the profile differs, without a note')
    difference = np.abs(source.mean() - result.mean()).max()
    if difference > 2.55:
        told = lambda mean: ' '.join(f'{value:.1f}' for value in mean)
        wrong.append(f'mean {told(result.mean())}, by {source.how} {told(source.mean())}')
    return wrong


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('folder')
    parser.add_argument('--program', default='cupscale-fast')
    parser.add_argument('--model', default='mini')
    parser.add_argument('--only', default='*')
    parser.add_argument('--keep')
    arguments = parser.parse_args()
    right, refused, wrong = 0, [], []
    folder = tempfile.mkdtemp()
    outputs = arguments.keep or folder
    os.makedirs(outputs, exist_ok=True)
    for name in sorted(os.listdir(arguments.folder)):
        path = os.path.join(arguments.folder, name)
        if not fnmatch.fnmatch(name, arguments.only) or not os.path.isfile(path):
            continue
        made = os.path.join(outputs, name + '.out.png')
        if os.path.exists(made):
            os.remove(made)
        ran = run(arguments.program, path, '-o', made, '--scale', '2', '--denoise-steps', '1', '--fresh',
                  '--model', arguments.model)
        notes = ran.stderr.decode(errors='replace').strip()
        if ran.returncode != 0:
            if ran.returncode == 1 and '\n' not in notes and notes and not os.path.exists(made):
                refused.append((name, notes))
            else:
                wrong.append((name, [f'exit code {ran.returncode}: {notes[:300]}']))
            continue
        try:
            faults = compare(path, made, notes, folder)
        except Exception as error:
            faults = [f'not compared: {error!r}']
        if faults:
            wrong.append((name, faults))
        else:
            right += 1
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
