-- Datasets that change: update records (schema/update.md), and what is published from this store.

-- Every verified record of a dataset. The followed one of a seq is the first that came; others with its seq are kept as
-- proof that the key has signed both.
CREATE TABLE updates (
    -- the original InfoSig: the name of the dataset
    origin      BLOB    NOT NULL,
    seq         INTEGER NOT NULL,
    info_hash   BLOB    NOT NULL,
    -- the record as networks carry it
    record      BLOB    NOT NULL,
    received_ms INTEGER NOT NULL,
    -- 0: another record of this seq came first
    followed    INTEGER NOT NULL,
    PRIMARY KEY (origin, seq, info_hash)
) WITHOUT ROWID;

-- When the networks were last asked for the newest record of a dataset, and what is served of it from here.
CREATE TABLE datasets (
    origin     BLOB PRIMARY KEY,
    -- when somebody last told what the newest version is; NULL: never
    checked_ms INTEGER,
    -- the directory or file that is published; NULL: none from this store
    path       BLOB,
    -- how published bytes are kept when the path changes: auto, copy or none
    snapshot   TEXT
) WITHOUT ROWID;
