-- The index of a store. Times are Unix times; *_ms in milliseconds, *_us in microseconds, *_ns in nanoseconds.

-- Single values: `boot_id` and `boot` (see pieces.boot).
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value BLOB NOT NULL
) WITHOUT ROWID;

-- Every torrent whose metainfo was ever verified.
CREATE TABLE torrents (
    info_hash BLOB PRIMARY KEY,
    info_id   BLOB NOT NULL,             -- the InfoSig of a signed torrent, else the InfoHash
    metainfo  BLOB NOT NULL,             -- the envelope as it was received
    added_ms  INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX torrents_by_info_id ON torrents (info_id);

-- What has verified blocks in the cache: a file that is known by its root and shared by torrents, or all files of
-- one torrent whose pieces span files.
CREATE TABLE objects (
    id           INTEGER PRIMARY KEY,
    key          TEXT NOT NULL UNIQUE,   -- its place under the cache directory
    length       INTEGER NOT NULL,       -- bytes of all its files
    piece_length INTEGER NOT NULL,
    info_hash    BLOB                    -- whose metainfo lays out the files; NULL for a single file
);

-- The cache files of an object as they were when the index was last written. A file that looks different was changed
-- by somebody else, or by a node that was killed: its blocks are verified again before they are used.
CREATE TABLE files (
    object   INTEGER NOT NULL,
    file     INTEGER NOT NULL,           -- 0 for a single file, else the index in the torrent
    size     INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    ctime_ns INTEGER NOT NULL,
    inode    INTEGER NOT NULL,
    PRIMARY KEY (object, file)
) WITHOUT ROWID;

-- Verified blocks by piece, and the order in which pieces are given up.
CREATE TABLE pieces (
    object  INTEGER NOT NULL,
    piece   INTEGER NOT NULL,            -- counted from the start of the object
    used_us INTEGER NOT NULL,            -- last read or written
    bytes   INTEGER NOT NULL,            -- taken from the disk
    boot    INTEGER NOT NULL,            -- 0: the data was synced before the row. Else the boot of the machine in
                                         -- which the data was written: after another boot it may never have
                                         -- reached the disk. -1: to be verified again before use.
    blocks  BLOB,                        -- bitmap of verified blocks, first block highest bit; NULL: all of them
    leaves  BLOB,                        -- 32-byte leaf hashes of all blocks, while only some are here
    PRIMARY KEY (object, piece)
) WITHOUT ROWID;
CREATE INDEX pieces_by_use ON pieces (used_us);

-- What is served in place: never copied, never written.
CREATE TABLE seeds (
    path      BLOB PRIMARY KEY,          -- absolute path as bytes
    info_hash BLOB NOT NULL,
    pieces    BLOB                       -- bitmap of pieces that matched; NULL: all of them
) WITHOUT ROWID;

-- The files of a seed as they were when they were hashed.
CREATE TABLE seed_files (
    path     BLOB NOT NULL,              -- of the seed
    file     INTEGER NOT NULL,           -- index in the torrent
    size     INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    ctime_ns INTEGER NOT NULL,
    inode    INTEGER NOT NULL,
    PRIMARY KEY (path, file)
) WITHOUT ROWID;

-- Mounts of the node, so that the next one can clean up after a killed one.
CREATE TABLE mounts (
    mountpoint BLOB PRIMARY KEY,         -- absolute path as bytes
    info_id    BLOB NOT NULL,
    since_ms   INTEGER NOT NULL
) WITHOUT ROWID;
