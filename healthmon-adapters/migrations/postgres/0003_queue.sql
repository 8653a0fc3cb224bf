-- The queue of those who have no Redis. Its tables churn: every row goes within moments, so that
-- they are cleared by the number of dead rows, and without the pauses that spare larger tables.

-- Probes that wait or are with workers. Unlogged: after a crash it is empty, and the next slots
-- fill it again; results are safe in a table of their own.
CREATE UNLOGGED TABLE queued_probes (
    service_id  bigint   NOT NULL,
    slot        bigint   NOT NULL,
    start_by    bigint   NOT NULL,
    look_at     bigint   NOT NULL,             -- when it is late: its start-by, or the end of its lease
    claim_epoch bigint,
    timeout     integer  NOT NULL,             -- in ms
    epoch       integer  NOT NULL,
    shard       smallint NOT NULL,             -- of its result
    claim_shard smallint,
    kind        smallint NOT NULL,
    deliveries  smallint NOT NULL DEFAULT 0,
    leased      boolean  NOT NULL DEFAULT false,
    region      text COLLATE "C" NOT NULL,
    service     text     NOT NULL,             -- JSON, as its scheduler saw it
    PRIMARY KEY (service_id, slot, region, kind)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000, autovacuum_vacuum_cost_delay = 0,
        autovacuum_vacuum_insert_threshold = -1, autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 50000);
CREATE INDEX queued_probes_waiting ON queued_probes (region, start_by) WHERE NOT leased;
CREATE INDEX queued_probes_late ON queued_probes (look_at);

-- Results that are not recorded. Whoever reads on must not do so by the largest number seen: a
-- number is given before its transaction commits, and another's greater one may be seen first.
CREATE TABLE queued_results (
    shard       smallint NOT NULL,
    kind        smallint NOT NULL,
    epoch       integer  NOT NULL,
    number      bigint   GENERATED ALWAYS AS IDENTITY,
    came_at     timestamptz NOT NULL DEFAULT statement_timestamp(),
    service_id  bigint   NOT NULL,
    slot        bigint   NOT NULL,
    delay       bigint   NOT NULL,             -- this and the others as in `results`
    certificate bigint,
    latency     integer  NOT NULL,
    dns         integer,
    connect     integer,
    tls         integer,
    first_byte  integer,
    outcome     smallint NOT NULL,
    reason      smallint,
    code        smallint,
    region      text COLLATE "C" NOT NULL,
    detail      text,
    PRIMARY KEY (shard, number)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000, autovacuum_vacuum_cost_delay = 0,
        autovacuum_vacuum_insert_threshold = -1, autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 50000);

-- The newest claim of each shard that probes came under.
CREATE TABLE queue_epochs (
    shard smallint PRIMARY KEY,
    epoch bigint   NOT NULL
) WITH (fillfactor = 50);

-- Recorders that drain results, and for how long they are waited for.
CREATE TABLE queue_consumers (
    name       text PRIMARY KEY,
    joined_at  timestamptz NOT NULL,
    seen_until timestamptz NOT NULL
) WITH (fillfactor = 50);

-- Who drains which shard's results.
CREATE TABLE queue_drains (
    shard    smallint PRIMARY KEY,
    consumer text,                              -- none: free
    claim    bigint NOT NULL DEFAULT 0          -- grows each time that somebody takes it
) WITH (fillfactor = 50);
