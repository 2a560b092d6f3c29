//! Small answers over HTTP: metrics and health checks.

use std::{convert::Infallible, future::Future, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpListener,
    sync::Semaphore,
    time::{sleep, timeout},
};

/// Connections of one listener that are served at a time; more wait in its queue.
const CONNECTIONS: usize = 64;
/// Longest a connection may take, from its first byte to its last.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is asked.
pub(crate) type Asked = Request<Incoming>;
/// What is answered.
pub(crate) type Answer = Response<Full<Bytes>>;

/// An answer of text.
pub(crate) fn answer(status: StatusCode, content_type: &'static str, text: String) -> Answer {
    let mut answer = Response::new(Full::from(text));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

/// Answers until it is dropped, one request for each connection.
pub(crate) async fn serve<F, R>(listener: TcpListener, respond: F)
where
    F: Fn(Asked) -> R + Clone + Send + 'static,
    R: Future<Output = Answer> + Send + 'static,
{
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = room.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                tracing::warn!("cannot accept an HTTP connection: {e}");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let respond = respond.clone();
        let service = service_fn(move |asked| {
            let answer = respond(asked);
            async { Ok::<_, Infallible>(answer.await) }
        });
        tokio::spawn(async move {
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).keep_alive(false).title_case_headers(true);
            // Who does not get its answer knows.
            let _ = timeout(PATIENCE, http.serve_connection(TokioIo::new(stream), service)).await;
            drop(place);
        });
    }
}
