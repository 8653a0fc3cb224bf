-- Services that report in: what they are known by, and what they said last.
CREATE TABLE heartbeats (
    service_id INTEGER PRIMARY KEY,
    key        BLOB    NOT NULL,               -- the SHA-256 of the service's token
    pulse      TEXT    NOT NULL                -- JSON: the newest sign of each sort
) STRICT;

-- One row: when signs were taken, and the newest time in which nobody took any.
CREATE TABLE listening (
    one   INTEGER PRIMARY KEY CHECK (one = 1),
    times TEXT    NOT NULL                     -- JSON
) STRICT;
INSERT INTO listening VALUES (1, '{}');
