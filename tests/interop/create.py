"""Makes a torrent as libtorrent does by default: hybrid, v1 and v2, with padding between files.

usage: create.py SOURCE TORRENT
"""

import os
import sys

import libtorrent as lt

source, target = map(os.path.abspath, sys.argv[1:])
files = lt.file_storage()
lt.add_files(files, source)
creator = lt.create_torrent(files, 64 * 1024)
lt.set_piece_hashes(creator, os.path.dirname(source))
with open(target, "wb") as file:
    file.write(lt.bencode(creator.generate()))
