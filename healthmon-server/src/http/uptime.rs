//! How a service did: `/services/{id}/uptime`.

use std::time::Duration;

use axum::extract::{Path, RawQuery, State};
use healthmon_core::{
    id::{Region, Seq, ServiceId},
    probe::Reason,
    summary::{Counts, Figures, Histogram, Incident, Uptime},
    time::{Slot, Timestamp, span},
};
use serde::Serialize;

use super::{
    Api, Problem,
    query::Parameters,
    services::{Json, id},
};

/// The span when none is given.
const USUAL: Duration = Duration::from_hours(24);
const SHORTEST: Duration = Duration::from_mins(1);

/// Which span is asked for.
#[derive(Debug)]
struct UptimeQuery {
    window: Option<String>,
    from: Option<String>,
    to: Option<String>,
}

impl UptimeQuery {
    /// The span, of which nothing is older than `history`.
    fn span(&self, now: Timestamp, history: Duration) -> Result<(Timestamp, Timestamp), Problem> {
        let time = |field, text: &Option<String>| match text {
            Some(text) => text.parse::<Timestamp>().map(Some).map_err(|error| Problem::field(field, error)),
            None => Ok(None),
        };
        let to = time("to", &self.to)?.unwrap_or(now).min(now);
        let (field, from) = match (time("from", &self.from)?, &self.window) {
            (Some(_), Some(_)) => return Err(Problem::field("window", "must not be given together with `from`")),
            (Some(from), None) => ("from", from),
            (None, window) => {
                let window = window.as_deref().map(span::parse).unwrap_or(Ok(USUAL.min(history)));
                ("window", to.before(window.map_err(|error| Problem::field("window", error))?))
            }
        };
        let oldest = now.before(history);
        if to.since(from) < SHORTEST {
            return Err(Problem::field(
                field,
                "must be at least a minute before the end of the span, which is now or `to`",
            ));
        }
        if from < oldest {
            let (history, oldest) = (span::format(history), oldest);
            return Err(Problem::field(field, format_args!("must not go back beyond {oldest}: {history} are kept")));
        }
        Ok((from, to))
    }
}

/// How a service did over a span.
#[derive(Debug, Serialize)]
pub(super) struct UptimeView {
    service: ServiceId,
    from: Slot,
    to: Slot,
    #[serde(flatten)]
    total: FiguresView,
    /// Each region, if there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    regions: Vec<RegionView>,
    incidents: Vec<IncidentView>,
    /// Whether all incidents of the span are there; if not, older ones are missing.
    incidents_complete: bool,
}

/// What results come to beside what was expected.
#[derive(Debug, Serialize)]
struct FiguresView {
    /// Null when nothing was seen.
    uptime: Option<f64>,
    /// Null when nothing was expected.
    coverage: Option<f64>,
    expected: u64,
    counts: Counts,
    latency: LatencyView,
}

#[derive(Debug, Serialize)]
struct LatencyView {
    p50_us: Option<u32>,
    p95_us: Option<u32>,
    p99_us: Option<u32>,
}

#[derive(Debug, Serialize)]
struct RegionView {
    region: Region,
    #[serde(flatten)]
    figures: FiguresView,
}

#[derive(Debug, Serialize)]
struct IncidentView {
    /// Null if the transition that it began with is no longer in the log.
    seq: Option<Seq>,
    from: Timestamp,
    to: Timestamp,
    duration_ms: u64,
    /// Whether it went on beyond the end of the span.
    open: bool,
    reason: Option<Reason>,
}

impl From<&Figures> for FiguresView {
    fn from(figures: &Figures) -> Self {
        Self {
            uptime: figures.uptime(),
            coverage: figures.coverage(),
            expected: figures.expected,
            counts: figures.counts,
            latency: LatencyView::from(&figures.latency),
        }
    }
}

impl From<&Histogram> for LatencyView {
    fn from(latency: &Histogram) -> Self {
        let [p50_us, p95_us, p99_us] = [500, 950, 990].map(|per_mille| latency.quantile_us(per_mille));
        Self { p50_us, p95_us, p99_us }
    }
}

impl From<Incident> for IncidentView {
    fn from(incident: Incident) -> Self {
        let Incident { seq, from, to, is_open, reason } = incident;
        let duration_ms = u64::try_from(to.since(from).as_millis()).unwrap_or(u64::MAX);
        Self { seq, from, to, duration_ms, open: is_open, reason }
    }
}

impl UptimeView {
    fn of(service: ServiceId, uptime: Uptime) -> Self {
        let several = uptime.regions.len() > 1;
        let regions = uptime.regions.iter().filter(|_| several);
        let region =
            |(region, figures): &(Region, Figures)| RegionView { region: region.clone(), figures: figures.into() };
        Self {
            service,
            from: uptime.from,
            to: uptime.to,
            total: FiguresView::from(&uptime.total),
            regions: regions.map(region).collect(),
            incidents: uptime.incidents.into_iter().map(IncidentView::from).collect(),
            incidents_complete: uptime.is_complete,
        }
    }
}

pub(super) async fn read(
    State(api): State<Api>,
    Path(text): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<UptimeView>, Problem> {
    let mut query = Parameters::read(query.as_deref(), &["window", "from", "to"], &[])?;
    let query = UptimeQuery { window: query.text("window"), from: query.text("from"), to: query.text("to") };
    let id = id(&text)?;
    let (from, to) = query.span(api.handle.now(), api.history)?;
    let found = api.handle.uptime(id, Slot::at(from), Slot::at(to)).await?;
    let uptime = found.ok_or_else(|| Problem::not_found(format_args!("service {id}")))?;
    Ok(Json(UptimeView::of(id, uptime)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span_of(window: Option<&str>, from: Option<&str>, to: Option<&str>) -> Result<(i64, i64), String> {
        let query = UptimeQuery { window: window.map(Into::into), from: from.map(Into::into), to: to.map(Into::into) };
        let now: Timestamp = "2026-11-20T10:00:00Z".parse().expect("a time");
        let ago = |time: Timestamp| i64::try_from(now.since(time).as_secs()).expect("a span");
        let found = query.span(now, Duration::from_hours(100));
        found.map(|(from, to)| (ago(from), ago(to))).map_err(|problem| format!("{problem:?}"))
    }

    #[test]
    fn a_span_is_a_window_that_ends_now_or_from_one_time_to_another() {
        let (ten, nine) = (Some("2026-11-20T10:00:00Z"), Some("2026-11-20T09:00:00Z"));
        assert_eq!(span_of(None, None, None), Ok((24 * 3_600, 0)));
        assert_eq!(span_of(Some("1m"), None, None), Ok((60, 0)));
        assert_eq!(span_of(Some("100h"), None, None), Ok((360_000, 0)));
        assert_eq!(span_of(Some("1h"), None, nine), Ok((7_200, 3_600)));
        assert_eq!(span_of(None, nine, ten), Ok((3_600, 0)));
        assert_eq!(span_of(None, nine, None), Ok((3_600, 0)));
        assert_eq!(span_of(None, nine, Some("2027-11-20T09:00:00Z")), Ok((3_600, 0)), "the future is not told");
        for (window, from, to, field) in [
            (Some("59s"), None, None, "window"),
            (Some("101h"), None, None, "window"),
            (Some("long"), None, None, "window"),
            (Some("9999999years"), None, None, "window"),
            (Some("1h"), nine, None, "window"),
            (None, ten, nine, "from"),
            (None, ten, None, "from"),
            (None, Some("2025-11-20T10:00:00Z"), None, "from"),
            (None, Some("yesterday"), None, "from"),
            (None, nine, Some("tomorrow"), "to"),
        ] {
            let problem = span_of(window, from, to).expect_err("a problem");
            assert!(problem.contains(&format!("field: {field:?}")), "{window:?} {from:?} {to:?}: {problem}");
        }
    }
}
