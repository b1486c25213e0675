"""The images that are timed: which ones there are, and how they are made with qemu-img and qemu-io."""
import os
import random

from .scattered import write_overlay
from .tools import GIB, KIB, MIB, TIB, run


class Commit:
    """One pair of images: how large, which clusters, what the overlay holds, what the base is and holds. Ranges are given by a
    function: a million of them take memory, and most are never needed."""

    images = ("base", "overlay.qcow2")
    copied_from = "overlay.qcow2"
    arguments = ["commit", "-q", "overlay.qcow2"]

    def __init__(self, title, disk_bytes, cluster_bytes, ranges, full_base=None, base_format="qcow2"):
        self.title = title
        self.disk_bytes = disk_bytes
        self.cluster_bytes = cluster_bytes
        self.ranges = ranges
        self.full_base = full_base
        self.base_format = base_format

    def bytes(self):
        return sum(length for _, length in self.ranges())

    def build(self, folder, tools):
        self.build_base(folder, tools)
        create(folder, tools, "overlay.qcow2", self.disk_bytes, self.cluster_bytes, self.base_format)
        write(folder, tools, "overlay.qcow2", self.ranges(), 0x22)

    def build_base(self, folder, tools):
        if self.base_format == "raw":
            run(tools["qemu-img"], "create", "-q", "-f", "raw", os.path.join(folder, "base"), str(self.disk_bytes))
        else:
            create(folder, tools, "base", self.disk_bytes, self.cluster_bytes)
        if self.full_base:
            write(folder, tools, "base", self.full_base(), 0x11)


class Scattered(Commit):
    """A commit of an overlay with so many single clusters that qemu-io would take hours to write them."""

    def __init__(self, title, disk_bytes, cluster_bytes, total_bytes):
        super().__init__(title, disk_bytes, cluster_bytes, scattered(disk_bytes, cluster_bytes, total_bytes))

    def build(self, folder, tools):
        self.build_base(folder, tools)
        clusters = [offset // self.cluster_bytes for offset, _ in self.ranges()]
        overlay = os.path.join(folder, "overlay.qcow2")
        write_overlay(overlay, self.disk_bytes, self.cluster_bytes, clusters, ("base", "qcow2"), 0x22)


class Packed(Commit):
    """A commit of an overlay whose clusters are compressed."""

    def __init__(self, title, disk_bytes, compression):
        super().__init__(title, disk_bytes, 64 * KIB, whole(disk_bytes))
        self.compression = compression

    def build(self, folder, tools):
        self.build_base(folder, tools)
        raw = write_raw(folder, self.disk_bytes, text)
        options = f"compression_type={self.compression},backing_file=base,backing_fmt=qcow2"
        overlay = os.path.join(folder, "overlay.qcow2")
        run(tools["qemu-img"], "convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, raw, overlay)
        os.unlink(raw)


class Flatten(Packed):
    """A detach of an overlay, which holds 1 MiB, from a base whose clusters are compressed."""

    copied_from = "base"
    arguments = ["rebase", "-b", "", "overlay.qcow2"]

    def build(self, folder, tools):
        raw = write_raw(folder, self.disk_bytes, text)
        options = f"compression_type={self.compression}"
        run(tools["qemu-img"], "convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, raw, os.path.join(folder, "base"))
        os.unlink(raw)
        create(folder, tools, "overlay.qcow2", self.disk_bytes, 64 * KIB, "qcow2")
        write(folder, tools, "overlay.qcow2", [(0, MIB)], 0x22)


class Rebase:
    """An overlay that holds 1 MiB, on a base that is full of one kind of content; another file for it to be based on."""

    images = ("base", "new.qcow2", "overlay.qcow2")
    copied_from = "base"

    def __init__(self, title, disk_bytes, base, new, options):
        self.title = title
        self.disk_bytes = disk_bytes
        self.base = base
        self.new = new
        self.arguments = ["rebase", *options, "overlay.qcow2"]

    def bytes(self):
        return self.disk_bytes if self.base else 0

    def build(self, folder, tools):
        for image, content in (("base", self.base), ("new.qcow2", self.new)):
            if isinstance(content, int) or content is None:
                create(folder, tools, image, self.disk_bytes, 64 * KIB)
                if content:
                    write(folder, tools, image, [(0, self.disk_bytes)], content)
                continue
            raw = write_raw(folder, self.disk_bytes, content)
            run(tools["qemu-img"], "convert", "-f", "raw", "-O", "qcow2", raw, os.path.join(folder, image))
            os.unlink(raw)
        create(folder, tools, "overlay.qcow2", self.disk_bytes, 64 * KIB, "qcow2")
        write(folder, tools, "overlay.qcow2", [(0, MIB)], 0x22)


def noise(number):
    """A mebibyte that cannot be packed."""
    return random.Random(number).randbytes(MIB)


def text(number):
    """A mebibyte of lines like those of a log."""
    source = random.Random(number)
    words = ["error", "started", "connection", "from", "service", "timeout", "session", "closed", "user", "request", "queued"]
    lines, length = [], 0
    while length < MIB:
        line = f"{number:06} {source.randrange(10**9)} {' '.join(source.choices(words, k=8))} id={source.getrandbits(32):08x}\n"
        lines.append(line)
        length += len(line)
    return "".join(lines).encode()[:MIB]


def scattered(disk_bytes, piece_bytes, total_bytes):
    """Pieces at random places, in random order, the same for every run."""

    def pieces():
        places = random.Random(1).sample(range(disk_bytes // piece_bytes), total_bytes // piece_bytes)
        return [(place * piece_bytes, piece_bytes) for place in places]

    return pieces


def whole(length_bytes, start=0):
    """One piece."""
    return lambda: [(start, length_bytes)]


def write_raw(folder, length_bytes, content):
    """A raw disk of mebibytes; where it lies."""
    raw = os.path.join(folder, "raw")
    with open(raw, "wb") as file:
        for number in range(length_bytes // MIB):
            file.write(content(number))
    return raw


def create(folder, tools, image, disk_bytes, cluster_bytes, base_format=None):
    """An empty qcow2 image; with a base's format it is an overlay on the file `base`."""
    below = ["-b", "base", "-F", base_format] if base_format else []
    options = ["-f", "qcow2", "-o", f"cluster_size={cluster_bytes}", *below]
    run(tools["qemu-img"], "create", "-q", *options, os.path.join(folder, image), str(disk_bytes))


def write(folder, tools, image, ranges, pattern):
    """Fills ranges of an image with a byte, in their order."""
    path = os.path.join(folder, image)
    with open(path, "rb") as file:
        image_format = "qcow2" if file.read(4) == b"QFI\xfb" else "raw"
    lines = []
    for offset, length in ranges:
        for start in range(0, length, GIB // 2):
            lines.append(f"write -q -P {pattern} {offset + start} {min(length - start, GIB // 2)}")
    run(tools["qemu-io"], "-f", image_format, "-t", "unsafe", path, stdin="\n".join(lines) + "\n")


ONTO_NEW = ["-b", "new.qcow2", "-F", "qcow2"]
SHAPES = {
    "bulk": Commit("1 GiB in one piece into an empty base", GIB, 64 * KIB, whole(GIB)),
    "raw-base": Commit("1 GiB in one piece into a raw base", GIB, 64 * KIB, whole(GIB), base_format="raw"),
    "overwrite": Commit("1 GiB in one piece over a full base", GIB, 64 * KIB, whole(GIB), full_base=whole(GIB)),
    "fragmented": Commit(
        "256 MiB over a base in random order",
        GIB,
        64 * KIB,
        whole(256 * MIB, 256 * MIB),
        full_base=scattered(GIB, 64 * KIB, GIB),
    ),
    "scattered-64k": Commit("256 MiB in 64 KiB clusters, scattered", 4 * GIB, 64 * KIB, scattered(4 * GIB, 64 * KIB, 256 * MIB)),
    "scattered-4k": Commit("32 MiB in 4 KiB clusters, scattered", GIB, 4 * KIB, scattered(GIB, 4 * KIB, 32 * MIB)),
    "packed-zlib": Packed("512 MiB of text, packed with zlib", 512 * MIB, "zlib"),
    "packed-zstd": Packed("512 MiB of text, packed with zstd", 512 * MIB, "zstd"),
    "small": Commit("1 MiB in a disk of 1 GiB", GIB, 64 * KIB, whole(MIB, 512 * MIB)),
    "small-16t": Commit("1 MiB in a disk of 16 TiB", 16 * TIB, 64 * KIB, whole(MIB, 9 * TIB)),
    "rebase-unsafe": Rebase("unsafe, a small overlay", GIB, None, None, ["-u", *ONTO_NEW]),
    "rebase-equal": Rebase("safe, 1 GiB reads the same", GIB, 0x11, 0x11, ONTO_NEW),
    "rebase-different": Rebase("safe, 1 GiB differs", GIB, 0x11, 0x33, ONTO_NEW),
    "rebase-detach": Rebase("detach from 1 GiB", GIB, 0x11, None, ["-b", ""]),
    "rebase-packed-zlib": Flatten("detach from 512 MiB of text, packed with zlib", 512 * MIB, "zlib"),
    "rebase-packed-zstd": Flatten("detach from 512 MiB of text, packed with zstd", 512 * MIB, "zstd"),
    "rebase-compress-text": Rebase("detach, `-c`, 512 MiB of text", 512 * MIB, text, None, ["-c", "-b", ""]),
    "rebase-compress-noise": Rebase("detach, `-c`, 512 MiB of noise", 512 * MIB, noise, None, ["-c", "-b", ""]),
}
# These take minutes and are run only when they are named.
LONG_SHAPES = {
    "million": Scattered("a million clusters of 4 KiB in 1 TiB", TIB, 4 * KIB, 4 * GIB),
}
