-- In which boot of the machine the files of a seed were written by knot itself: 0 where they are on the disk for sure.
-- After another boot they are hashed again, since a power cut may have left holes in them (see pieces.boot).
ALTER TABLE seeds ADD COLUMN boot INTEGER NOT NULL DEFAULT 0;
CREATE INDEX seeds_by_hash ON seeds (info_hash);
