"""Prints what libtorrent reads in a torrent: its hashes, and each file with its place, its root and its attributes.

usage: read.py TORRENT
"""

import sys

import libtorrent as lt

info = lt.torrent_info(sys.argv[1])
files = info.files()
hashes = info.info_hashes()
print("v1" if hashes.has_v1() else "", "v2" if hashes.has_v2() else "", info.name(), info.piece_length(), info.num_pieces())
for at in range(files.num_files()):
    # How padding is called is everyone's own choice.
    path = "padding" if files.file_flags(at) & 1 else files.file_path(at)
    print(path, files.file_offset(at), files.file_size(at), files.file_flags(at), files.root(at))
if hashes.has_v1():
    print(*(info.hash_for_piece(piece).hex() for piece in range(info.num_pieces())))
