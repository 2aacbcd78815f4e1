#!/usr/bin/env python3
"""Circles between the files of src, by their imports: none may be left, so that each file can be read and tested
with those below it alone.

    python3 tools/circles.py             # prints every circle, and exits with 1 if there is one
    python3 tools/circles.py --arrows    # prints every import between files

Names are followed through `pub use` to the file that defines them. Tests are left out. A file that only gathers a
folder (`mod.rs` that declares and re-exports) is no stop on the way.
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent / "src"
USE = re.compile(r"^[ \t]*(pub(?:\([^)]*\))?[ \t]+)?use[ \t]+([^;]+);", re.M)
PATH = re.compile(r"\b(crate|super|self)((?:::(?:super|[a-z_][A-Za-z0-9_]*|[A-Z][A-Za-z0-9_]*))+)")


def without_tests_and_comments(text):
    """The code of a file, without comments and without what is compiled for tests alone."""
    text = re.sub(r"//[^\n]*", "", text)
    found = re.search(r"#\[cfg\((?:all\()?test\b[^\]]*\]\s*(?:pub(?:\([^)]*\))?\s+)?mod \w+\s*\{", text)
    return text[: found.start()] if found else text


def leaves(tree, prefix=()):
    """The paths of a use tree, each with the name that it gets here."""
    tree = tree.strip()
    if "{" in tree:
        head, _, rest = tree.partition("{")
        inner = rest[: rest.rindex("}")]
        parts = tuple(part for part in head.strip().split("::") if part)
        depth, start = 0, 0
        for at, sign in enumerate(inner + ","):
            depth += {"{": 1, "}": -1}.get(sign, 0)
            if sign == "," and depth == 0:
                if inner[start:at].strip():
                    yield from leaves(inner[start:at], prefix + parts)
                start = at + 1
        return
    path, _, name = tree.partition(" as ")
    parts = prefix + tuple(part.strip() for part in path.strip().split("::") if part.strip())
    if parts and parts[-1] == "self":
        parts = parts[:-1]
    yield parts, name.strip() or (parts[-1] if parts else "")


class Tree:
    """The modules below src."""

    def __init__(self):
        self.files = {}
        for file in sorted(ROOT.rglob("*.rs")):
            parts = list(file.relative_to(ROOT).with_suffix("").parts)
            if parts[-1] in ("mod", "lib"):
                parts.pop()
            self.files[tuple(parts)] = file
        self.code = {m: without_tests_and_comments(f.read_text()) for m, f in self.files.items()}
        self.exports = {}
        for module, code in self.code.items():
            names = self.exports.setdefault(module, {})
            for public, tree in USE.findall(code):
                if public:
                    for path, name in leaves(tree):
                        names[name] = path

    def absolute(self, module, path):
        """A path as written in `module`, from the crate's root; None if it leads out of the crate."""
        if not path:
            return None
        head, rest = path[0], list(path[1:])
        if head in ("crate", "cupscale"):
            return tuple(rest)
        if head == "self":
            return module + tuple(rest)
        if head == "super":
            base = module[:-1]
            while rest and rest[0] == "super":
                base, rest = base[:-1], rest[1:]
            return base + tuple(rest)
        if module + (head,) in self.files:
            return module + tuple(path)
        return None

    def definer(self, path, seen=()):
        """The module that defines what an absolute path names."""
        for length in range(len(path), -1, -1):
            module = tuple(path[:length])
            if module not in self.files:
                continue
            rest = path[length:]
            if rest and (export := self.exports[module].get(rest[0])) and (module, rest[0]) not in seen:
                target = self.absolute(module, export)
                if target is not None:
                    return self.definer(target + tuple(rest[1:]), seen + ((module, rest[0]),))
            return module
        return None

    def arrows(self):
        """For each module, those that it imports from."""
        arrows = {}
        for module, code in self.code.items():
            paths = []
            for public, tree in USE.findall(code):
                # A re-export is followed from where it is used.
                if not public:
                    paths += [path for path, _ in leaves(tree)]
            body = USE.sub("", code)
            paths += [(head, *rest.split("::")[1:]) for head, rest in PATH.findall(body)]
            targets = {self.definer(target) for path in paths if (target := self.absolute(module, path)) is not None}
            arrows[module] = targets - {module, None, ()}
        return arrows


def circles(arrows):
    """The strongly connected parts with more than one module (Tarjan)."""
    index, low, stack, on, found, count = {}, {}, [], set(), [], [0]

    def visit(node):
        index[node] = low[node] = count[0]
        count[0] += 1
        stack.append(node)
        on.add(node)
        for target in arrows.get(node, ()):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in on:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            part = []
            while True:
                member = stack.pop()
                on.discard(member)
                part.append(member)
                if member == node:
                    break
            if len(part) > 1:
                found.append(sorted(part))

    sys.setrecursionlimit(10000)
    for node in sorted(arrows):
        if node not in index:
            visit(node)
    return found


def main():
    arrows = Tree().arrows()
    name = "::".join
    if "--arrows" in sys.argv[1:]:
        for module, targets in sorted(arrows.items()):
            for target in sorted(targets):
                print(name(module) or "lib", "->", name(target))
        return 0
    found = circles(arrows)
    for part in found:
        print("circle:", ", ".join(name(module) for module in part))
        for module in part:
            for target in sorted(arrows[module] & set(part)):
                print("   ", name(module), "->", name(target))
    print(f"{len(arrows)} files, {len(found)} circles")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
