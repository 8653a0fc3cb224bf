//! Errors as RFC 9457 problem details that name each bad field.

use axum::response::{IntoResponse, Response};
use healthmon_core::{
    ports::{QueueError, StoreError},
    runtime::HandleError,
    service::{FieldError, FieldErrors},
};
use http::{HeaderValue, StatusCode, header};
use problem_details::ProblemDetails;
use serde::Serialize;

use crate::heartbeats::without_tokens;

/// Members of a problem beyond the standard ones.
#[derive(Debug, Default, Serialize)]
struct Extensions {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError>,
}

/// An answer that is no success.
#[derive(Debug)]
pub(crate) struct Problem {
    details: Box<ProblemDetails<Extensions>>,
    status: StatusCode,
    retry_after_s: Option<u64>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let details = ProblemDetails::from_status_code(status).with_detail(detail.into());
        Self { details: Box::new(details.with_extensions(Extensions::default())), status, retry_after_s: None }
    }

    /// Something in the request's query or path is wrong.
    pub(crate) fn field(field: &str, problem: impl std::fmt::Display) -> Self {
        FieldErrors::one(field, problem).into()
    }

    pub(crate) fn not_found(what: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("there is no {what}"))
    }

    pub(crate) fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }
}

impl From<FieldErrors> for Problem {
    fn from(errors: FieldErrors) -> Self {
        let mut problem = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "some fields are wrong; nothing was changed");
        problem.details.extensions.errors = errors.iter().cloned().collect();
        problem
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotFound(id) => Self::not_found(format_args!("service {id}")),
            StoreError::Conflict(_) => Self::new(StatusCode::PRECONDITION_FAILED, error.to_string()),
            StoreError::Transient { retry_after, .. } => {
                tracing::warn!(%error, "the store did not answer a request");
                let seconds = retry_after.as_secs().max(1);
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "the store is away for now").retry_after(seconds)
            }
            error => {
                tracing::error!(%error, "the store failed a request");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "the store failed; the server's log says why")
            }
        }
    }
}

impl From<QueueError> for Problem {
    fn from(error: QueueError) -> Self {
        tracing::warn!(%error, "the queue took no probe");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()).retry_after(1)
    }
}

impl From<HandleError> for Problem {
    fn from(error: HandleError) -> Self {
        match error {
            HandleError::Invalid(errors) => errors.into(),
            HandleError::Store(error) => error.into(),
            HandleError::Queue(error) => error.into(),
            error => Self::new(StatusCode::GATEWAY_TIMEOUT, error.to_string()),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.details.into_response();
        *response.status_mut() = self.status;
        if self.status == StatusCode::UNAUTHORIZED {
            let schemes = HeaderValue::from_static("Basic realm=\"healthmon\", Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, schemes);
        }
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

pub(crate) async fn no_route(uri: http::Uri) -> Problem {
    Problem::not_found(format_args!("route {}", without_tokens(uri.path())))
}

pub(crate) async fn no_method(method: http::Method, uri: http::Uri) -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, format!("{} does not take {method}", without_tokens(uri.path())))
}
