"""mpv as a measuring device: it plays a file in real time, to nowhere, and tells where it is."""

import json
import os
import socket
import subprocess
import time

MPV = ["mpv", "--no-config", "--vo=null", "--ao=null", "--no-terminal"]
POLL = 0.05
STALL = 0.25  # seconds without progress that a viewer notices
TAIL = 0.5  # the end of a file, of which mpv tells no progress


class Playback:
    """What playing came to."""

    def __init__(self, startup, stalls, stalled, finished):
        self.startup, self.stalls, self.stalled, self.finished = startup, stalls, stalled, finished


class Ipc:
    """mpv's socket, where it answers requests in lines of JSON."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(5)
        self.socket.connect(path)
        self.lines = self.socket.makefile()
        self.count = 0

    def get(self, name):
        self.count += 1
        request = {"command": ["get_property", name], "request_id": self.count}
        self.socket.sendall(json.dumps(request).encode() + b"\n")
        for line in self.lines:
            answer = json.loads(line)
            if answer.get("request_id") == self.count:
                return answer.get("data")
        raise EOFError


def connect(path, process):
    while process.poll() is None:
        try:
            return Ipc(path)
        except OSError:
            time.sleep(0.01)
    return None


def positions(process, path, deadline):
    """Pairs of a time and where the player was then, until it ends."""
    ipc = connect(path, process)
    while ipc and process.poll() is None and time.monotonic() < deadline:
        try:
            at = ipc.get("time-pos")
        except (OSError, EOFError, ValueError):
            break
        if at is not None:
            yield time.monotonic(), at
        time.sleep(POLL)


def judge(began, samples, duration):
    """Counts the stalls between the first progress and the end."""
    first = samples[0][1] if samples else 0
    moved = last = None
    stalls = stalled = 0
    startup = None
    for now, at in samples:
        if startup is None:
            if at > first:
                startup, moved, last = now - began, now, at
            continue
        if at == last:
            continue
        if now - moved > STALL:
            stalls += 1
            stalled += now - moved - POLL
        moved, last = now, at
    finished = last is not None and last - first >= duration - TAIL
    return startup, stalls, stalled, finished, moved


def play(source, duration, socket_path, limit):
    """Plays to the end, or until `limit` seconds are over."""
    began = time.monotonic()
    process = subprocess.Popen([*MPV, f"--input-ipc-server={socket_path}", source], stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    try:
        samples = list(positions(process, socket_path, began + limit))
        ended = time.monotonic()
    finally:
        process.kill()
        process.wait()
        if os.path.exists(socket_path):
            os.unlink(socket_path)
    startup, stalls, stalled, finished, moved = judge(began, samples, duration)
    if not finished:
        stalls, stalled = stalls + 1, stalled + ended - (moved or began)
    return Playback(startup if startup is not None else limit, stalls, stalled, finished)
