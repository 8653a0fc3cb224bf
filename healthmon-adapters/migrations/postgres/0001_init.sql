-- Times are microseconds since the epoch, slots milliseconds. Codes are those of healthmon-core.

-- One row: what was settled when the deployment began.
CREATE TABLE deployment (
    one          boolean  PRIMARY KEY DEFAULT true CHECK (one),
    shards       smallint NOT NULL,
    partition_ms bigint   NOT NULL              -- the width of a partition of results
);

-- Which history of writes this server is on: its cluster, and the timeline, which is another one
-- after each promotion and each restore to a point in time. Empty where it cannot be told.
CREATE FUNCTION lineage() RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (SELECT system_identifier FROM pg_control_system()) || '/'
        || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8);
EXCEPTION WHEN insufficient_privilege OR feature_not_supported OR undefined_function THEN
    RETURN '';
END $$;

-- Whether a commit that returned is also on a standby.
CREATE FUNCTION replicated() RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT current_setting('synchronous_standby_names') <> ''
        AND current_setting('synchronous_commit') NOT IN ('off', 'local')
$$;

-- One row: where log and feed stand. For `lineage` and what follows see the store's `head.rs`.
CREATE TABLE head (
    one        boolean PRIMARY KEY DEFAULT true CHECK (one),
    log_id     text    NOT NULL,
    seq        bigint  NOT NULL,
    revision   bigint  NOT NULL,
    lineage    text    NOT NULL,               -- the one that `seq` was last given on
    came_from  text    NOT NULL,               -- the one before it
    forked_at  bigint  NOT NULL,               -- `seq` where this lineage began
    replicated boolean NOT NULL                -- whether the last entry was on a standby before anybody saw it
) WITH (fillfactor = 50);
INSERT INTO head VALUES (true, replace(gen_random_uuid()::text, '-', ''), 0, 0, lineage(), '', 0, replicated());

CREATE TABLE services (
    id              bigint   PRIMARY KEY,
    shard           smallint NOT NULL,
    settings        text     NOT NULL,          -- JSON, as the API shows it
    group_name      text,                       -- the same as in the settings, for filters
    activity        text     NOT NULL CHECK (activity IN ('active', 'paused', 'deleted')),
    revision        bigint   NOT NULL UNIQUE,
    epoch           integer  NOT NULL,
    created_at      bigint   NOT NULL,
    updated_at      bigint   NOT NULL,
    scheduled_since bigint   NOT NULL
);
CREATE INDEX services_by_shard ON services (shard, revision);

-- What every recorded result moves, apart from the settings, which seldom move. Half of each page
-- is left free, so that a row's next version stands beside it and no index is touched.
CREATE TABLE states (
    service_id        bigint  PRIMARY KEY,
    since             bigint  NOT NULL,
    maintenance_until bigint,
    stored_through    bigint  NOT NULL,        -- no result with a later slot is stored
    patience          bigint  NOT NULL,        -- ms of silence after which the sweep looks
    look_at           bigint  NOT NULL,        -- the sweep need not look before, in ms
    overlays          smallint NOT NULL,       -- bits: 1 blind, 2 paused, 4 maintenance
    announced         text    NOT NULL,        -- the same as in the snapshot, for filters
    snapshot          bytea   NOT NULL         -- the engine's state, versioned
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);
-- Snapshots do not compress, and one that is moved out of its row costs twice.
ALTER TABLE states ALTER COLUMN snapshot SET STORAGE PLAIN;

CREATE TABLE regions (
    id   smallint PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE
);

-- Numbers that have no sign in healthmon-core are kept as the bits they are.
CREATE TABLE results (
    service_id  bigint   NOT NULL,
    slot        bigint   NOT NULL,
    delay       bigint   NOT NULL,             -- from slot to start, in microseconds
    applied     bigint,                        -- its number among the service's inputs, if it voted
    certificate bigint,
    latency     integer  NOT NULL,
    epoch       integer  NOT NULL,
    dns         integer,
    connect     integer,
    tls         integer,
    first_byte  integer,
    region_id   smallint NOT NULL,
    kind        smallint NOT NULL,
    outcome     smallint NOT NULL,
    reason      smallint,
    code        smallint,
    detail      text,
    PRIMARY KEY (service_id, slot, region_id, kind)
) PARTITION BY RANGE (slot);

CREATE TABLE controls (
    service_id bigint NOT NULL,
    applied    bigint NOT NULL,
    at         bigint NOT NULL,
    control    text   NOT NULL,                -- JSON
    PRIMARY KEY (service_id, applied)
);

CREATE TABLE log (
    seq        bigint PRIMARY KEY,
    service_id bigint NOT NULL,
    applied    bigint NOT NULL,
    at         bigint NOT NULL,
    entry      text   NOT NULL                 -- JSON, without the seq
);
CREATE INDEX log_by_service ON log (service_id, seq);
