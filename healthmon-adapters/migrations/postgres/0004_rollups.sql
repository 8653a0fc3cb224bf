-- The sums of each hour's scheduled results, made once the hour is over: what is asked of weeks and
-- months needs no single results, and stays when those are gone. Hours are counted from the epoch.
CREATE TABLE rollups (
    service_id    bigint   NOT NULL,
    hour          integer  NOT NULL,
    newest        integer  NOT NULL,           -- the newest slot with a result, in ms since the hour began
    pass          integer  NOT NULL,
    slow          integer  NOT NULL,
    fail          integer  NOT NULL,
    indeterminate integer  NOT NULL,
    region_id     smallint NOT NULL,
    latency       bytea    NOT NULL,           -- of those that passed: healthmon-core's histogram
    PRIMARY KEY (service_id, hour, region_id)
) PARTITION BY RANGE (hour);

-- How far they are made; no row: not at all.
CREATE TABLE rollup_progress (
    one        boolean PRIMARY KEY DEFAULT true CHECK (one),
    hour       integer NOT NULL,               -- all hours before it are done
    service_id bigint  NOT NULL                -- and in it, the services up to this one
) WITH (fillfactor = 50);

-- Hours of services that results came for when it was late, for their sums to be made again.
CREATE TABLE rollup_late (
    service_id bigint  NOT NULL,
    hour       integer NOT NULL,
    PRIMARY KEY (service_id, hour)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);

-- Most results pass: who asks for the others finds them without looking through those.
CREATE INDEX results_not_passed ON results (service_id, slot, outcome) WHERE outcome <> 0;
