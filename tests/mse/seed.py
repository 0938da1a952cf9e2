"""A libtorrent peer on a loopback address of its own, which seeds and lets nobody in without encryption.

usage: seed.py DIR IP tcp|utp rc4|plaintext|both [PEER_IP PEER_PORT]

With a peer it dials that peer, else it waits to be dialled. Prints `seeding INFOHASH PORT`, then for each peer how
its stream is encrypted, `peer IP rc4|plaintext|none`; ends with its standard input or after a minute.
"""

import os
import sys
import threading
import time

import libtorrent as lt

directory, ip, carrier, level, *peer = sys.argv[1:]

data = bytes(range(251)) * (2 * 1024 * 1024 // 251)
with open(os.path.join(directory, "data"), "wb") as file:
    file.write(data)
files = lt.file_storage()
lt.add_files(files, os.path.join(directory, "data"))
creator = lt.create_torrent(files, 256 * 1024, lt.create_torrent.v1_only)
lt.set_piece_hashes(creator, directory)
info = lt.torrent_info(creator.generate())

session = lt.session({
    "listen_interfaces": f"{ip}:0",
    "outgoing_interfaces": ip,
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_outgoing_tcp": carrier == "tcp",
    "enable_incoming_tcp": carrier == "tcp",
    "enable_outgoing_utp": carrier == "utp",
    "enable_incoming_utp": carrier == "utp",
    "in_enc_policy": int(lt.enc_policy.forced),
    "out_enc_policy": int(lt.enc_policy.forced),
    "allowed_enc_level": int(getattr(lt.enc_level, level)),
    "prefer_rc4": True,
    "alert_mask": 0,
})
torrent = session.add_torrent({"ti": info, "save_path": directory, "flags": lt.torrent_flags.seed_mode})
deadline = time.monotonic() + 60
while not session.listen_port() or torrent.status().state != lt.torrent_status.seeding:
    time.sleep(0.05)
    if time.monotonic() > deadline:
        sys.exit("libtorrent does not get ready to seed")
print("seeding", info.info_hash(), session.listen_port(), flush=True)
if peer:
    torrent.connect_peer((peer[0], int(peer[1])))


def report():
    said = set()
    while True:
        for found in torrent.get_peer_info():
            if found.flags & (found.handshake | found.connecting):
                continue
            if found.flags & found.rc4_encrypted:
                how = "rc4"
            elif found.flags & found.plaintext_encrypted:
                how = "plaintext"
            else:
                how = "none"
            line = f"peer {found.ip[0]} {how}"
            if line not in said:
                said.add(line)
                print(line, flush=True)
        time.sleep(0.05)


threading.Thread(target=report, daemon=True).start()
threading.Timer(60, lambda: os._exit(1)).start()
sys.stdin.read()
os._exit(0)
