-- Times are microseconds since the epoch, slots milliseconds. Codes are those of healthmon-core.

-- One row: where log and feed stand.
CREATE TABLE head (
    one      INTEGER PRIMARY KEY CHECK (one = 1),
    log_id   TEXT    NOT NULL,
    seq      INTEGER NOT NULL,
    revision INTEGER NOT NULL
) STRICT;
INSERT INTO head VALUES (1, lower(hex(randomblob(16))), 0, 0);

CREATE TABLE services (
    id              INTEGER PRIMARY KEY,
    settings        TEXT    NOT NULL,          -- JSON, as the API shows it
    group_name      TEXT,                      -- the same as in the settings, for filters
    activity        TEXT    NOT NULL CHECK (activity IN ('active', 'paused', 'deleted')),
    revision        INTEGER NOT NULL UNIQUE,
    epoch           INTEGER NOT NULL,
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL,
    scheduled_since INTEGER NOT NULL
) STRICT;

-- What every recorded result moves, apart from the settings, which seldom move.
CREATE TABLE states (
    service_id        INTEGER PRIMARY KEY,
    snapshot          BLOB    NOT NULL,        -- the engine's state, versioned
    announced         TEXT    NOT NULL,        -- the same as in the snapshot, for filters
    overlays          INTEGER NOT NULL,        -- bits: 1 blind, 2 paused, 4 maintenance
    since             INTEGER NOT NULL,
    maintenance_until INTEGER,
    stored_through    INTEGER NOT NULL,        -- no result with a later slot is stored
    patience          INTEGER NOT NULL,        -- ms of silence after which the sweep looks
    look_at           INTEGER NOT NULL         -- the sweep need not look before, in ms
) STRICT;

CREATE TABLE regions (
    id   INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
) STRICT;

CREATE TABLE results (
    service_id  INTEGER NOT NULL,
    slot        INTEGER NOT NULL,
    region_id   INTEGER NOT NULL,
    kind        INTEGER NOT NULL,
    epoch       INTEGER NOT NULL,
    delay       INTEGER NOT NULL,              -- from slot to start, in microseconds
    latency     INTEGER NOT NULL,
    outcome     INTEGER NOT NULL,
    reason      INTEGER,
    dns         INTEGER,
    connect     INTEGER,
    tls         INTEGER,
    first_byte  INTEGER,
    code        INTEGER,
    certificate INTEGER,
    detail      TEXT,
    applied     INTEGER,                       -- its number among the service's inputs, if it voted
    PRIMARY KEY (service_id, slot, region_id, kind)
) STRICT, WITHOUT ROWID;

CREATE TABLE controls (
    service_id INTEGER NOT NULL,
    applied    INTEGER NOT NULL,
    at         INTEGER NOT NULL,
    control    TEXT    NOT NULL,               -- JSON
    PRIMARY KEY (service_id, applied)
) STRICT, WITHOUT ROWID;

CREATE TABLE log (
    seq        INTEGER PRIMARY KEY,
    service_id INTEGER NOT NULL,
    applied    INTEGER NOT NULL,
    at         INTEGER NOT NULL,
    entry      TEXT    NOT NULL                -- JSON, without the seq
) STRICT;
CREATE INDEX log_by_service ON log (service_id, seq);
