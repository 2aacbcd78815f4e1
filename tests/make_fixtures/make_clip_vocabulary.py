"""Makes models/clip/merges.txt.gz: CLIP's byte-pair merges in rank order, as in transformers'
merges.txt, from the list that the PyPI package open_clip_torch carries.

    pip install --no-deps open_clip_torch==3.3.0 && python tests/make_fixtures/make_clip_vocabulary.py

OpenAI's list has 262,144 merges; CLIP uses the first 48,894 of them, so that 256 bytes, 256 bytes at
a word's end, the merges and 2 special tokens make 49,408 ids.
"""

import gzip
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

TARGET = Path(__file__).resolve().parents[2] / "models" / "clip" / "merges.txt.gz"
MERGES = 49152 - 256 - 2


def main():
    # Found, not imported: the list needs none of the package's dependencies.
    source = Path(find_spec("open_clip").origin).parent / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(source.read_bytes()).decode("utf-8").split("\n")[1 : MERGES + 1]
    assert len(lines) == MERGES and all(len(line.split(" ")) == 2 for line in lines)
    text = "\n".join(["#version: 0.2", *lines]) + "\n"
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    # No name and no time, so that the same list makes the same bytes.
    TARGET.write_bytes(gzip.compress(text.encode("utf-8"), 9, mtime=0))
    print(f"{TARGET.name}: {TARGET.stat().st_size} bytes, from open_clip_torch {version('open_clip_torch')}")


if __name__ == "__main__":
    main()
