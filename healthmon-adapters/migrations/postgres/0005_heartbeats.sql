-- Services that report in: what they are known by, and what they said last. A row is written at
-- each sign, and no index but the key has to be: a new version of it stays on its page.
CREATE TABLE heartbeats (
    service_id bigint PRIMARY KEY,
    key        bytea  NOT NULL,                -- the SHA-256 of the service's token
    pulse      text   NOT NULL                 -- JSON: the newest sign of each sort
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);

-- One row: when signs were taken, and the newest time in which nobody took any.
CREATE TABLE listening (
    one   boolean PRIMARY KEY DEFAULT true CHECK (one),
    times text    NOT NULL                     -- JSON
) WITH (fillfactor = 50);
INSERT INTO listening (times) VALUES ('{}');
