"""Makes a torrent as libtorrent does by default: hybrid, v1 and v2, with padding between files; with `v2`, v2 only.

usage: create.py SOURCE TORRENT [v2]
"""

import os
import sys

import libtorrent as lt

source, target = map(os.path.abspath, sys.argv[1:3])
flags = lt.create_torrent.v2_only if "v2" in sys.argv[3:] else 0
files = lt.file_storage()
lt.add_files(files, source)
creator = lt.create_torrent(files, 64 * 1024, flags)
lt.set_piece_hashes(creator, os.path.dirname(source))
with open(target, "wb") as file:
    file.write(lt.bencode(creator.generate()))
