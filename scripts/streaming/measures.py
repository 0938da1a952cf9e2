"""What is measured of a client, each with a client that has just been started."""

import contextlib
import random
import threading
import time

from benchlib import MIB, say
from streaming.clients import TooSlow, within
from streaming.player import play

READ_SECONDS = 30
SEEKS, SEEK_BYTES = 30, 256 << 10
READS, READ_BYTES = 200, 16 << 10
STARTS = 3
PERCENTS = (50, 80, 95)
SIZES = ("small", "big")
SIZE_READ, SIZE_READS = 24 * MIB, 20


class Value:
    """A number of a row; `bounded` if it would have been more without a time limit."""

    def __init__(self, number, bounded=False):
        self.number, self.bounded = number, bounded


def quantile(numbers, part):
    """The smallest that `part` of them do not exceed."""
    ordered = sorted(numbers)
    return ordered[max(0, -(-len(ordered) * part // 1).__int__() - 1)]


def read_checked(client, offset, length, open_end):
    got = client.read(offset, length, open_end)
    if got != client.content.read(offset, length):
        raise SystemExit(f"{client.label}: wrong bytes at {offset}")


def timed_read(client, offset, length, open_end=False, limit=READ_SECONDS):
    """How long a read took, with the limit for one that did not end."""
    began = time.monotonic()
    try:
        within(limit, read_checked, client, offset, length, open_end)
        return Value(time.monotonic() - began)
    except TooSlow as slow:
        if slow.__cause__ is not None:
            say(f"  {client.label}: reading {length} bytes at {offset}: {slow.__cause__!r}")
        return Value(limit, True)


def many_reads(client, offsets, length, open_end, budget):
    """The times of reads one after the other, the time of all, and whether the budget was enough."""
    times, began = [], time.monotonic()
    for offset in offsets:
        left = budget - (time.monotonic() - began)
        if left <= 0:
            break
        times.append(timed_read(client, offset, length, open_end, min(READ_SECONDS, left)))
    return times, time.monotonic() - began


class Cost:
    """What a client takes while it does something."""

    def __init__(self, client):
        self.client, self.swarm = client, client.swarm
        self.received, self.cpu = self.swarm.received(), client.cpu()

    def received_bytes(self):
        return self.swarm.received() - self.received

    def cpu_seconds(self):
        return self.client.cpu() - self.cpu


def first_bytes(start, contents, seed, _budget):
    """From the start of the program at the beginning, and in the middle once it is connected."""
    dice = random.Random(seed)
    rows = {"start": [], "connected": []}
    for _ in range(STARTS):
        with start(contents["big"]) as client:
            first = timed_read(client, 0, 1)
            rows["start"].append(Value(time.monotonic() - client.began, first.bounded))
        with start(contents["big"]) as client:
            client.wait_until_connected()
            size = client.content.size
            rows["connected"].append(timed_read(client, dice.randrange(size // 4, size - MIB), 1))
    return {name: median(values) for name, values in rows.items()}


def median(values):
    return sorted(values, key=lambda value: value.number)[len(values) // 2]


def spread(name, client, offsets, length, open_end, budget):
    client.wait_until_connected()
    cost = Cost(client)
    times, took = many_reads(client, offsets, length, open_end, budget)
    late = any(value.bounded for value in times) or len(times) < len(offsets)
    say(f"  {client.label}: {len(times)} of {len(offsets)} reads in {took:.1f} s")
    numbers = [value.number for value in times]
    # What was not read in time would have taken longer than anything that was.
    numbers += [max(numbers)] * (len(offsets) - len(numbers))
    return {f"{name} p50": Value(quantile(numbers, 0.5), late and quantile(numbers, 0.5) == max(numbers)),
            f"{name} p99": Value(quantile(numbers, 0.99), late),
            f"{name} total": Value(took, late),
            f"{name} received": Value(cost.received_bytes() / (length * len(times))),
            "rss": Value(client.rss() / 1e6)}


def seeks(start, contents, seed, budget):
    """A viewer who jumps: as much as a player reads to go on."""
    with start(contents["big"]) as client:
        dice = random.Random(seed + 1)
        offsets = [dice.randrange(0, client.content.size - SEEK_BYTES) for _ in range(SEEKS)]
        return spread("seek", client, offsets, SEEK_BYTES, True, budget / 2)


def random_reads(start, contents, seed, budget):
    with start(contents["big"]) as client:
        dice = random.Random(seed + 2)
        blocks = client.content.size // READ_BYTES
        offsets = [dice.randrange(blocks) * READ_BYTES for _ in range(READS)]
        return spread("random", client, offsets, READ_BYTES, False, budget)


@contextlib.contextmanager
def stops_half_way(swarm, size):
    """The last seeder stops answering when half of a size has come."""
    base, over = swarm.received(), threading.Event()

    def watch():
        while not over.wait(0.05):
            if swarm.received() - base >= size / 2:
                return swarm.seeders[-1].stop_answering()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        swarm.seeders[-1].answer_again()


def playing(percent, start, contents, _seed, _budget):
    content = contents[f"play{percent}"]
    with start(content) as client:
        # At once: who fetches before anything is read shall have no head start.
        cost = Cost(client)
        with stops_half_way(client.swarm, content.size):
            playback = play(client.source(), content.seconds, f"{client.dir}/mpv.sock", 2 * content.seconds + 20)
        say(f"  {client.label}: started after {playback.startup:.2f} s, {playback.stalls} stalls of "
            f"{playback.stalled:.1f} s{'' if playback.finished else ', not to the end'}")
        bounded = not playback.finished
        return {f"play{percent} startup": Value(playback.startup, bounded and playback.stalls == 0),
                f"play{percent} stalls": Value(playback.stalls, bounded),
                f"play{percent} stalled": Value(playback.stalled, bounded),
                f"play{percent} cpu": Value(cost.cpu_seconds() * (1 << 30) / max(cost.received_bytes(), 1)),
                "rss": Value(client.rss() / 1e6)}


def sizes(start, contents, seed, budget):
    """What reading a fixed amount costs, which a torrent's size should not change."""
    rows = {}
    for name in SIZES:
        with start(contents[name]) as client:
            client.wait_until_connected()
            cost, dice, size = Cost(client), random.Random(seed + 3), client.content.size
            timed_read(client, size // 2, SIZE_READ, True, budget)
            for _ in range(SIZE_READS):
                timed_read(client, dice.randrange(size // READ_BYTES) * READ_BYTES, READ_BYTES)
            rows[f"size rss {name}"] = Value(client.rss() / 1e6)
            rows[f"size cpu {name}"] = Value(cost.cpu_seconds() * (1 << 30) / cost.received_bytes())
    return rows


MEASURES = {"first": first_bytes, "seek": seeks, "random": random_reads,
            **{f"play{percent}": lambda *arguments, percent=percent: playing(percent, *arguments)
               for percent in PERCENTS},
            "size": sizes}
