# syntax=docker/dockerfile:1
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
# The workspace's manifest names the benches, and the test of the examples.
COPY benches benches
COPY examples examples
COPY healthmon-core healthmon-core
COPY healthmon-adapters healthmon-adapters
COPY healthmon-server healthmon-server
ENV CARGO_PROFILE_RELEASE_STRIP=debuginfo
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --package healthmon-server \
    && cp target/release/healthmon /usr/local/bin/healthmon \
    && mkdir /data

# The C library, libgcc and CA certificates; no shell. Its user nonroot is 65532.
FROM gcr.io/distroless/cc-debian12:nonroot
LABEL org.opencontainers.image.title="healthmon" \
      org.opencontainers.image.description="A distributed health monitor" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
COPY --from=build /usr/local/bin/healthmon /usr/local/bin/healthmon
COPY --from=build --chown=65532:65532 /data /data
# Without a PostgreSQL URL: one node, one file, in a volume on /data.
ENV HEALTHMON_LISTEN=0.0.0.0:8080 \
    HEALTHMON_DATABASE=/data/healthmon.db
WORKDIR /data
USER 65532:65532
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["healthmon", "check", "--timeout", "3s", "http://127.0.0.1:8080/readyz"]
ENTRYPOINT ["healthmon"]
CMD ["serve"]
