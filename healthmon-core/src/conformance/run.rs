//! Running a clause, and dropping a call in the middle.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::mpsc,
    task::Poll,
    thread,
    time::Duration,
};

/// A clause that has not ended by then hangs, whatever its own clock says.
const WALL_LIMIT: Duration = Duration::from_secs(120);

/// Runs one clause on a runtime and a thread of its own.
///
/// # Panics
/// When the clause does, or when it has not ended within two minutes: an adapter that hangs is an
/// adapter that fails.
pub fn run(clause: impl AsyncFnOnce() + Send + 'static) {
    let (done, ended) = mpsc::channel();
    let body = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(clause());
        // The verdict is out before whatever the adapter left running is waited for.
        done.send(()).ok();
        runtime.shutdown_background();
    };
    let thread = thread::Builder::new().spawn(body).expect("a thread");
    match ended.recv_timeout(WALL_LIMIT) {
        Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("the clause has not ended within {WALL_LIMIT:?}"),
    }
}

/// Where the backend under test is, from the environment.
///
/// # Panics
/// When the variable is not set: a missing backend must never pass as green.
pub fn backend_url(variable: &str) -> String {
    std::env::var(variable)
        .unwrap_or_else(|_| panic!("{variable} is not set: the backend that this suite is to test is missing"))
}

/// Polls `call` up to `times` times, each after a real wake-up, and drops it if it has not come to
/// its end by then: at every await there is, one after the other, when `times` counts up.
pub async fn poll_times<F: Future>(call: F, times: usize) -> Option<F::Output> {
    let mut call = pin!(call);
    let mut left = times;
    poll_fn(move |context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match call.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}
