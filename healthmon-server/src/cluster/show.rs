//! `healthmon cluster`: the deployment as people read it.

use std::{collections::BTreeMap, io::Write, time::Duration};

use serde_json::Value;

use crate::{
    cli::ClusterArgs,
    client::{self, AskError},
};

/// Why nothing is shown.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// The server did not answer.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The answer could not be written.
    #[error("cannot write: {0}")]
    Output(#[from] std::io::Error),
}

/// Asks a server for its deployment and writes it.
///
/// # Errors
/// See [`ClusterError`].
pub async fn run(args: &ClusterArgs, out: &mut impl Write) -> Result<(), ClusterError> {
    let cluster = client::get(&args.url, "/api/v1/cluster", args.token.as_ref()).await?;
    if args.json {
        writeln!(out, "{cluster:#}")?;
    } else {
        show(&cluster, out)?;
    }
    Ok(())
}

fn show(cluster: &Value, out: &mut impl Write) -> std::io::Result<()> {
    let owners = owners(cluster);
    let mut table = vec![
        ["NODE", "VERSION", "ROLES", "REGION", "SHARDS", "SEEN", "SCHEDULED", "STARTED", "RECORDED"].map(str::to_owned),
    ];
    for node in list(&cluster["nodes"]) {
        let name = text(&node["name"]);
        let shards = owners.get(name).map_or_else(|| "-".to_owned(), |(shards, _)| shards.len().to_string());
        let seen = node["seen_ago_ms"].as_u64().unwrap_or(0);
        let roles: Vec<&str> = list(&node["roles"]).map(text).collect();
        table.push([
            name.to_owned(),
            text(&node["version"]).to_owned(),
            roles.join(","),
            text(&node["region"]).to_owned(),
            shards,
            if node["answering"] == true { "here".to_owned() } else { format!("{} ago", span(seen * 1_000)) },
            late(&node["signs"]["emission_lateness"]),
            late(&node["signs"]["start_lateness"]),
            late(&node["signs"]["record_lag"]),
        ]);
    }
    align(&table, out)?;
    writeln!(
        out,
        "\nHow late at worst, of the last moments: probes scheduled, probes started; results recorded after a probe's start."
    )?;
    let shards = list(&cluster["shards"]).count();
    if shards > 0 {
        let mut table = vec![["SCHEDULER", "SHARDS", "EPOCHS"].map(str::to_owned)];
        for (name, (shards, epochs)) in &owners {
            let (least, most) = (epochs.iter().min().unwrap_or(&0), epochs.iter().max().unwrap_or(&0));
            let epochs = if least == most { least.to_string() } else { format!("{least} to {most}") };
            let name = if name.is_empty() { "(nobody)" } else { name };
            table.push([name.to_owned(), ranges(shards), epochs]);
        }
        writeln!(out)?;
        align(&table, out)?;
    }
    let queue = &cluster["queue"];
    let ms = |value: &Value| span(value.as_u64().unwrap_or(0) * 1_000);
    if queue.is_null() {
        writeln!(out, "\nqueue  does not answer")?;
    } else {
        writeln!(
            out,
            "\nqueue  {} probes wait, the oldest {} beyond its slot; {} with workers; {} results wait, the oldest for {}",
            queue["waiting"],
            ms(&queue["age_ms"]),
            queue["in_flight"],
            queue["results"],
            ms(&queue["recorder_lag_ms"]),
        )?;
    }
    writeln!(out, "log    {} at {}", text(&cluster["log"]["id"]), cluster["log"]["head"])
}

/// Shards and epochs by the node that schedules them; those with an empty name by nobody.
fn owners(cluster: &Value) -> BTreeMap<String, (Vec<u64>, Vec<u64>)> {
    let mut owners: BTreeMap<String, (Vec<u64>, Vec<u64>)> = BTreeMap::new();
    for shard in list(&cluster["shards"]) {
        // A lease that has run out is nobody's.
        let owner = if shard["lease_left_ms"].is_null() { "" } else { text(&shard["owner"]) };
        let node = owner.rsplit_once('/').map_or(owner, |(node, _)| node);
        let (shards, epochs) = owners.entry(node.to_owned()).or_default();
        shards.extend(shard["shard"].as_u64());
        epochs.extend(shard["epoch"].as_u64());
    }
    owners
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn late(recent: &Value) -> String {
    match recent["count"].as_u64() {
        None | Some(0) => "-".to_owned(),
        Some(_) => span(recent["longest_us"].as_u64().unwrap_or(0)),
    }
}

/// Microseconds, as short as people say them.
fn span(us: u64) -> String {
    match us {
        0 => "0".to_owned(),
        1..1_000_000 => format!("{:.1} ms", Duration::from_micros(us).as_secs_f64() * 1_000.0),
        1_000_000..120_000_000 => format!("{:.1} s", Duration::from_micros(us).as_secs_f64()),
        _ => format!("{} min", us / 60_000_000),
    }
}

/// `0-31, 40`.
fn ranges(numbers: &[u64]) -> String {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for &number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    let shown = |&(first, last): &(u64, u64)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    ranges.iter().map(shown).collect::<Vec<_>>().join(", ")
}

fn align<const N: usize>(table: &[[String; N]], out: &mut impl Write) -> std::io::Result<()> {
    let width = |column: usize| table.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    for row in table {
        let cells: Vec<String> = row.iter().enumerate().map(|(at, cell)| format!("{cell:<0$}", width(at))).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_shown_as_ranges_and_spans_as_people_say_them() {
        assert_eq!(ranges(&[0, 1, 2, 5, 7, 8]), "0-2, 5, 7-8");
        assert_eq!([0, 1_250, 12_000_000, 180_000_000].map(span), ["0", "1.2 ms", "12.0 s", "3 min"]);
    }

    #[test]
    fn a_queue_that_is_away_is_said_to_be() {
        let cluster = serde_json::json!({"nodes": [], "shards": [], "queue": null, "log": {"id": "l", "head": "1"}});
        let mut out = Vec::new();
        show(&cluster, &mut out).unwrap();
        assert!(String::from_utf8(out).unwrap().contains("\nqueue  does not answer\nlog "));
    }

    #[test]
    fn a_shard_whose_lease_has_run_out_is_nobodys() {
        let cluster = serde_json::json!({"nodes": [], "queue": {}, "log": {"id": "l", "head": "1"}, "shards": [
            {"shard": 0, "owner": "a:1/ff", "epoch": 3, "lease_left_ms": 9000},
            {"shard": 1, "owner": "b:1/ff", "epoch": 4, "lease_left_ms": null},
        ]});
        let mut out = Vec::new();
        show(&cluster, &mut out).unwrap();
        let shown = String::from_utf8(out).unwrap();
        assert!(shown.contains("(nobody)   1       4\n") && shown.contains("a:1        0       3\n"), "{shown}");
    }
}
