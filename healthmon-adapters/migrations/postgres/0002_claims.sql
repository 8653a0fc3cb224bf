-- Who schedules which shard, and since which epoch.
CREATE TABLE shards (
    shard           smallint PRIMARY KEY,
    owner           text,                       -- a scheduler's name; none: free
    epoch           bigint NOT NULL DEFAULT 0,  -- grows with each claim: the fencing number
    lease_until     timestamptz,
    emitted_through bigint                      -- in microseconds: where the next owner goes on
);

-- Who takes part in sharing them out.
CREATE TABLE schedulers (
    name       text PRIMARY KEY,
    seen_until timestamptz NOT NULL
);

-- The processes of the deployment: what people look at, and the numbers in the ids of services.
CREATE TABLE nodes (
    number      smallint PRIMARY KEY CHECK (number BETWEEN 0 AND 1023),
    name        text NOT NULL,
    lease_until timestamptz NOT NULL,
    report      jsonb NOT NULL                  -- what it says of itself
);
