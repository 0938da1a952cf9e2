"""A libtorrent peer on a loopback address of its own.

usage: peer.py [--lsd] [--fetch-nothing] DIR IP forced|enabled|disabled TORRENT [PEER_IP:PORT ...]

TORRENT is a .torrent file or a magnet link; its content is in DIR, or is fetched into it. Dials the peers, if there
are any, and hears of more from them; with --lsd it looks for them on the local network too. Prints `listening PORT`
and then, once for each, `connected IP`, `sent IP` for peers that it sent some content, and `seeding` when it has
everything. Ends with its standard input, or after two minutes.
"""

import argparse
import os
import sys
import threading
import time

import libtorrent as lt

arguments = argparse.ArgumentParser()
arguments.add_argument("--lsd", action="store_true")
arguments.add_argument("--fetch-nothing", action="store_true")
for name in ("directory", "ip", "encryption", "source"):
    arguments.add_argument(name)
arguments.add_argument("peers", nargs="*")
arguments = arguments.parse_args()

policy = int(getattr(lt.enc_policy, arguments.encryption))
session = lt.session({
    "listen_interfaces": f"{arguments.ip}:0",
    "outgoing_interfaces": arguments.ip,
    "enable_dht": False,
    "enable_lsd": arguments.lsd,
    "enable_upnp": False,
    "enable_natpmp": False,
    "in_enc_policy": policy,
    "out_enc_policy": policy,
    "allow_multiple_connections_per_ip": True,
    "close_redundant_connections": False,
    "alert_mask": 0,
})
if arguments.source.startswith("magnet:"):
    parameters = lt.parse_magnet_uri(arguments.source)
else:
    parameters = lt.add_torrent_params()
    parameters.ti = lt.torrent_info(arguments.source)
    if arguments.fetch_nothing:
        parameters.file_priorities = [0] * parameters.ti.num_files()
parameters.save_path = arguments.directory
torrent = session.add_torrent(parameters)
deadline = time.monotonic() + 60
while not session.listen_port():
    time.sleep(0.02)
    if time.monotonic() > deadline:
        sys.exit("libtorrent does not listen")
print("listening", session.listen_port(), flush=True)
for peer in arguments.peers:
    host, _, port = peer.rpartition(":")
    torrent.connect_peer((host, int(port)))


def report():
    said = set()
    while True:
        lines = ["seeding"] if torrent.status().is_seeding else []
        for peer in torrent.get_peer_info():
            if not peer.flags & (lt.peer_info.connecting | lt.peer_info.handshake):
                lines.append(f"connected {peer.ip[0]}")
            if peer.total_upload > 0:
                lines.append(f"sent {peer.ip[0]}")
        for line in lines:
            if line not in said:
                said.add(line)
                print(line, flush=True)
        time.sleep(0.05)


threading.Thread(target=report, daemon=True).start()
threading.Timer(120, lambda: os._exit(1)).start()
sys.stdin.read()
os._exit(0)
