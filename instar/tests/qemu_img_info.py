"""Reads the output of `info` with oslo.utils, as OpenStack's services do.

Arguments: the form (json or human) and a file with the output. Prints what was understood, one `name=value` a line.
Ends with status 77 where oslo.utils is missing, or no longer knows the form.
"""

import sys
import warnings

MISSING = 77

try:
    from oslo_utils.imageutils import QemuImgInfo
except ImportError as error:
    print(error)
    sys.exit(MISSING)


def main():
    form, path = sys.argv[1:]
    with open(path, encoding="utf-8") as file:
        output = file.read()
    # The human form is deprecated in the versions that still know it.
    warnings.simplefilter("ignore")
    try:
        info = QemuImgInfo(output, format=form)
    except ValueError as error:
        if "Unsupported format" not in str(error):
            raise
        print(error)
        return MISSING
    for name in ("image", "file_format", "virtual_size", "cluster_size", "backing_file", "encrypted"):
        print(f"{name}={getattr(info, name)}")
    print(f"has_disk_size={info.disk_size > 0}")
    # The human form calls a snapshot's name its tag.
    print("snapshots=" + ",".join(snapshot.get("name") or snapshot.get("tag") for snapshot in info.snapshots))
    return 0


sys.exit(main())
