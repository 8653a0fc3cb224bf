//! What an answer, or the lack of one, says of a service.

use healthmon_core::probe::{FailReason, Held};
use tonic::{Code, Response, Status};
use tonic_health::pb::{HealthCheckResponse, health_check_response::ServingStatus};

use super::{
    call::{Head, Told, is_grpc},
    wire::{End, Meter, READ_LIMIT},
};
use crate::{
    net::{Progress, attempt::Fault},
    secrets::Redactor,
};

/// As much of a server's message is shown, in characters.
const MESSAGE_LIMIT: usize = 200;

/// Judges an answer: notes in `progress` what it asserts, or says why there is none.
pub(super) fn judge(
    answered: Result<Response<HealthCheckResponse>, Status>,
    told: &Told,
    meter: &Meter,
    redactor: &Redactor,
    progress: &mut Progress,
) -> Result<(), Fault> {
    if let Some(status) = &told.status {
        progress.code = u16::try_from(i32::from(status.code())).ok();
        progress.learn("grpc status", named(status.code()));
        if status.code() != Code::Ok {
            return Err(said(status, redactor));
        }
    }
    match answered {
        Ok(answer) if told.status.is_some() => serving(answer.get_ref().status, progress),
        Ok(_) => Err(Fault::fail(FailReason::Protocol, "the answer ended without a grpc-status")),
        Err(local) => Err(unread(&local, told, meter, progress)),
    }
}

fn serving(status: i32, progress: &mut Progress) -> Result<(), Fault> {
    let (held, reason) = match ServingStatus::try_from(status) {
        Ok(ServingStatus::Serving) => (Held::Held, FailReason::NotServing),
        Ok(ServingStatus::NotServing | ServingStatus::Unknown) => (Held::Failed, FailReason::NotServing),
        Ok(ServingStatus::ServiceUnknown) => (Held::Failed, FailReason::UnknownService),
        Err(_) => {
            let detail = format!("the serving status is {status}, which grpc.health.v1 does not define");
            return Err(Fault::fail(FailReason::Protocol, detail));
        }
    };
    progress.assertions.note("serving status", held, reason, || {
        let seen = ServingStatus::try_from(status).map_or("undefined", |status| status.as_str_name());
        (ServingStatus::Serving.as_str_name().to_owned(), seen.to_owned())
    });
    Ok(())
}

/// What the server itself said by its status.
fn said(status: &Status, redactor: &Redactor) -> Fault {
    let mut detail = format!("grpc status {}", named(status.code()));
    if !status.message().is_empty() {
        let message: String = redactor.redact(status.message()).chars().take(MESSAGE_LIMIT).collect();
        detail = format!("{detail}: {message:?}");
    }
    Fault::fail(reason(status.code()), detail)
}

const fn reason(code: Code) -> FailReason {
    match code {
        Code::NotFound => FailReason::UnknownService,
        Code::Unimplemented => FailReason::Unimplemented,
        Code::Unauthenticated | Code::PermissionDenied => FailReason::Authentication,
        Code::DeadlineExceeded => FailReason::Timeout,
        _ => FailReason::Status,
    }
}

/// Why what came is no answer.
fn unread(local: &Status, told: &Told, meter: &Meter, progress: &mut Progress) -> Fault {
    let protocol = |detail: String| Fault::fail(FailReason::Protocol, detail);
    if meter.end() == Some(End::TooMuch) {
        return protocol(format!("more than {READ_LIMIT} bytes came for one health check"));
    }
    match (&told.head, &told.broken) {
        (Some(head), None) if head.http_status != 200 => http(head, progress),
        (Some(Head { content_type, .. }), None) if !content_type.as_deref().is_some_and(is_grpc) => protocol(format!(
            "the answer's content type is {:?}, not application/grpc",
            content_type.as_deref().unwrap_or("")
        )),
        // tonic's own words: of a message too long, or that cannot be decoded.
        (_, None) => protocol(format!("the answer cannot be read: {}", local.message())),
        (_, Some(_)) if meter.began_as_http1() => {
            protocol("the peer answers in HTTP/1, and gRPC needs HTTP/2".to_owned())
        }
        (_, Some(broken)) => {
            let broken = broken.strip_prefix("http2 error: ").unwrap_or(broken);
            match meter.end() {
                // With TLS 1.3 a peer may refuse us only after the handshake, by an alert.
                Some(End::Tls) => Fault::fail(FailReason::Tls, broken),
                // A peer that says why by a frame is told by what it said.
                Some(End::Closed) if !broken.contains("received") => {
                    protocol("the peer closed the connection before the answer was complete".to_owned())
                }
                _ => protocol(format!("http/2: {broken}")),
            }
        }
    }
}

/// An answer by something that is no gRPC server, or stands before one: the HTTP status is read as
/// gRPC's own mapping reads it.
fn http(head: &Head, progress: &mut Progress) -> Fault {
    progress.code = Some(head.http_status);
    let reason = match head.http_status {
        401 | 403 => FailReason::Authentication,
        404 => FailReason::Unimplemented,
        _ => FailReason::Status,
    };
    Fault::fail(reason, format!("HTTP status {} and no grpc-status", head.http_status))
}

fn named(code: Code) -> String {
    let name = match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    };
    format!("{name} ({})", i32::from(code))
}
