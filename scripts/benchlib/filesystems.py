"""Folders on other file systems, made for one run and gone after it. All but tmpfs lie in a file of the given folder; root may
mount them, and mkfs of the kind must be there."""
import contextlib
import os
import tempfile

from .tools import GIB, run

KINDS = ("ext4", "xfs", "btrfs", "tmpfs")
SIZE_BYTES = 24 * GIB


@contextlib.contextmanager
def mounted(kind, folder):
    """A folder on a new file system; without a kind it is the given one."""
    if not kind:
        yield folder
        return
    with tempfile.TemporaryDirectory(dir=folder) as place:
        mount_point = os.path.join(place, kind)
        os.mkdir(mount_point)
        if kind == "tmpfs":
            run("mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES // 2}", "tmpfs", mount_point)
        else:
            image = os.path.join(place, "image")
            with open(image, "wb") as file:
                file.truncate(SIZE_BYTES)
            run(f"mkfs.{kind}", "-q", image)
            run("mount", "-o", "loop", image, mount_point)
        try:
            yield mount_point
        finally:
            run("umount", mount_point)
