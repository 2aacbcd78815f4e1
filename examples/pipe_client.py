#!/usr/bin/env python3
"""A client of `cupscale-fast pipe` (docs/pipe-protocol.md), with Python's standard library alone.

    pipe_client.py IN OUT [NAME=VALUE …]      NAME is a long option of the command line: scale=2 prompt="a harbour"

As a module, `Pipe` keeps the program warm for any number of pictures.
"""

import json
import struct
import subprocess
import sys

FORMATS = {"jpg": "jpeg", "jpeg": "jpeg", "png": "png", "webp": "webp", "tif": "tiff", "tiff": "tiff"}


class Failed(Exception):
    """The program has answered a request with an error; `kind` says of which kind."""

    def __init__(self, answer):
        super().__init__(answer["message"])
        self.kind = answer["kind"]


class Pipe:
    """The program at the other end of two pipes."""

    def __init__(self, *options, program="cupscale-fast"):
        self.process = subprocess.Popen(
            [program, "pipe", *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.hello, _ = self.receive()
        if (self.hello["protocol"], self.hello["version"]) != ("cupscale-pipe", 1):
            raise RuntimeError(f"another protocol: {self.hello}")
        self.last_id = 0

    def send(self, header, payload=b""):
        text = json.dumps(header).encode()
        self.process.stdin.write(struct.pack("<IQ", len(text), len(payload)) + text)
        self.process.stdin.write(payload)
        self.process.stdin.flush()

    def receive(self):
        """The next answer and its payload."""
        header, payload = struct.unpack("<IQ", self.read(12))
        return json.loads(self.read(header)), self.read(payload)

    def read(self, length):
        data = self.process.stdout.read(length)
        if len(data) < length:
            raise EOFError("the program has ended")
        return data

    def upscale(self, picture, settings=None, watch=None, **fields):
        """Enlarges a picture file, or raw pixels with `input={"pix": …}`; `watch` is called with every answer on the way.

        Returns the answer `result` and the picture. `fields` are those of the request: `input`, `output`, `preview`.
        """
        self.last_id += 1
        request = {"type": "upscale", "id": self.last_id, "settings": settings or {}, **fields}
        self.send(request, picture)
        while True:
            answer, payload = self.receive()
            if answer["type"] == "error":
                raise Failed(answer)
            if answer["type"] in ("result", "cancelled"):
                return answer, payload
            if watch:
                watch(answer, payload)

    def close(self):
        self.send({"type": "shutdown"})
        self.process.stdin.close()
        self.process.stdout.read()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def value(text):
    """A number, true or false where the text is one, else the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    source, target, *words = sys.argv[1:]
    settings = {name: value(text) for name, _, text in (word.partition("=") for word in words)}
    ending = target.rpartition(".")[2].lower()
    output = {"format": FORMATS.get(ending, ending)}

    def watch(answer, _):
        if answer["type"] == "progress":
            print(f"\r{answer['stage']} {answer['done']}/{answer['total']}   ", end="", file=sys.stderr)
        elif answer["type"] == "note":
            print(answer["text"], file=sys.stderr)

    with open(source, "rb") as file:
        picture = file.read()
    with Pipe() as pipe:
        try:
            result, enlarged = pipe.upscale(picture, settings, watch, output=output)
        except Failed as error:
            sys.exit(f"{source}: {error}")
    with open(target, "wb") as file:
        file.write(enlarged)
    print(f"\r{target}: {result['width']} × {result['height']} in {result['seconds']:.1f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
