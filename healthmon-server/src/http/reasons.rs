//! Why probes do not pass: `/reasons`.

use healthmon_core::probe::Reason;
use serde::Serialize;

use super::services::Json;

/// A reason, as the API explains it.
#[derive(Debug, Serialize)]
pub(super) struct ReasonView {
    reason: Reason,
    /// What a result with this reason counts as: `fail` or `indeterminate`.
    outcome: &'static str,
    /// What it means, and what to look at.
    meaning: &'static str,
}

/// Every reason there is.
#[derive(Debug, Serialize)]
pub(super) struct ReasonList {
    reasons: Vec<ReasonView>,
}

pub(super) async fn list() -> Json<ReasonList> {
    let view = |reason: Reason| {
        let outcome = match reason {
            Reason::Fail(_) => "fail",
            Reason::Indeterminate(_) => "indeterminate",
        };
        ReasonView { reason, outcome, meaning: reason.meaning() }
    };
    Json(ReasonList { reasons: Reason::all().map(view).collect() })
}

/// The reason that a filter `reason` names.
pub(super) fn read(name: &str) -> Result<Reason, String> {
    Reason::from_name(name).ok_or_else(|| {
        let names: Vec<_> = Reason::all().map(Reason::as_str).collect();
        format!("must be one of {}", names.join(", "))
    })
}
