"""A qcow2 overlay with very many single clusters, written without qemu-io, which takes hours to make one."""
import struct

from .tools import MIB

HEADER_BYTES = 104
COPIED = 1 << 63


def write_overlay(path, disk_bytes, cluster_bytes, clusters, backing, pattern):
    """Writes an overlay that holds `clusters`, numbers of clusters in the order in which they were written, each filled with a byte."""
    entries = cluster_bytes // 8
    l1_length = -(-disk_bytes // (cluster_bytes * entries))
    tables = sorted({cluster // entries for cluster in clusters})
    l1_clusters = -(-l1_length * 8 // cluster_bytes)
    # Refcounts have 16 bits. A block counts itself, so their number is found step by step.
    blocks = 0
    while True:
        table_clusters = max(-(-blocks * 8 // cluster_bytes), 1)
        used = 1 + table_clusters + blocks + l1_clusters + len(tables) + len(clusters)
        needed = -(-used * 2 // cluster_bytes)
        if needed == blocks:
            break
        blocks = needed
    blocks_start = 1 + table_clusters
    l1_start = blocks_start + blocks
    l2_start = l1_start + l1_clusters
    data_start = l2_start + len(tables)
    places = {cluster: (data_start + place) * cluster_bytes for place, cluster in enumerate(clusters)}
    with open(path, "wb") as file:
        file.write(header(disk_bytes, cluster_bytes, l1_length, l1_start, table_clusters, backing))
        file.seek(cluster_bytes)
        file.write(b"".join(struct.pack(">Q", (blocks_start + block) * cluster_bytes) for block in range(blocks)))
        file.seek(blocks_start * cluster_bytes)
        file.write(struct.pack(">H", 1) * used)
        l1 = [0] * l1_length
        for place, table in enumerate(tables):
            l1[table] = COPIED | (l2_start + place) * cluster_bytes
        file.seek(l1_start * cluster_bytes)
        file.write(struct.pack(f">{l1_length}Q", *l1))
        file.seek(l2_start * cluster_bytes)
        by_table = sorted(places)
        position = 0
        for table in tables:
            l2 = [0] * entries
            while position < len(by_table) and by_table[position] // entries == table:
                l2[by_table[position] % entries] = COPIED | places[by_table[position]]
                position += 1
            file.write(struct.pack(f">{entries}Q", *l2))
        left = len(clusters) * cluster_bytes
        piece = bytes([pattern]) * MIB
        while left > 0:
            file.write(piece[:left])
            left -= MIB


def header(disk_bytes, cluster_bytes, l1_length, l1_start, table_clusters, backing):
    """The first cluster: header of version 3, the backing file's format as an extension, its name."""
    name, kind = (text.encode() for text in backing)
    extension = struct.pack(">II", 0xE2792ACA, len(kind)) + kind.ljust(-(-len(kind) // 8) * 8, b"\0") + bytes(8)
    fields = struct.pack(
        ">IIQIIQIIQQIIQQQQII",
        0x514649FB,
        3,
        HEADER_BYTES + len(extension),
        len(name),
        cluster_bytes.bit_length() - 1,
        disk_bytes,
        0,
        l1_length,
        l1_start * cluster_bytes,
        cluster_bytes,
        table_clusters,
        0,
        0,
        0,
        0,
        0,
        4,
        HEADER_BYTES,
    )
    return fields + extension + name
