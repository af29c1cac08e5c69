//! The part of HTTP that a scraper uses: one GET, one response.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The longest head of a request, in bytes.
const MAX_HEAD: usize = 8192;
/// The most headers.
const MAX_HEADERS: usize = 64;
/// The content type of the text.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";

/// The requested resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Metrics,
    /// The metrics' headers only.
    Head,
    Elsewhere,
    OtherMethod,
    Nonsense,
    TooMuch,
}

/// Answers a scraper, and closes the connection.
pub async fn answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    text: impl Fn() -> Arc<str>,
) -> io::Result<()> {
    let asked = listen(&mut stream).await?;
    let (status, kind, body): (_, _, Arc<str>) = match asked {
        Asked::Metrics | Asked::Head => ("200 OK", OPEN_METRICS, text()),
        Asked::Elsewhere => ("404 Not Found", PLAIN, "metrics are at /metrics\n".into()),
        Asked::OtherMethod => ("405 Method Not Allowed", PLAIN, "use GET\n".into()),
        Asked::Nonsense => (
            "400 Bad Request",
            PLAIN,
            "this is not an HTTP request\n".into(),
        ),
        Asked::TooMuch => (
            "431 Request Header Fields Too Large",
            PLAIN,
            "the request's head is too long\n".into(),
        ),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    if asked != Asked::Head {
        stream.write_all(body.as_bytes()).await?;
    }
    stream.shutdown().await
}

async fn listen(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Asked> {
    let mut head = Vec::new();
    loop {
        if head.len() >= MAX_HEAD {
            return Ok(Asked::TooMuch);
        }
        let mut more = [0; 1024];
        let room = (MAX_HEAD - head.len()).min(more.len());
        let count = stream.read(&mut more[..room]).await?;
        head.extend_from_slice(&more[..count]);
        match understand(&head) {
            Some(asked) => return Ok(asked),
            None if count == 0 => return Ok(Asked::Nonsense),
            None => {}
        }
    }
}

/// Returns the request; None if it is incomplete.
fn understand(head: &[u8]) -> Option<Asked> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Partial) => return None,
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => return Some(Asked::TooMuch),
        Err(_) => return Some(Asked::Nonsense),
    }
    let path = request.path.unwrap_or_default();
    let path = path.split('?').next().unwrap_or_default();
    Some(match (request.method, path) {
        (Some("GET"), "/metrics") => Asked::Metrics,
        (Some("HEAD"), "/metrics") => Asked::Head,
        (Some("GET" | "HEAD"), _) => Asked::Elsewhere,
        _ => Asked::OtherMethod,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_apart() {
        for (head, expected) in [
            (
                "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
                Some(Asked::Metrics),
            ),
            ("GET /metrics?a=b HTTP/1.0\r\n\r\n", Some(Asked::Metrics)),
            ("HEAD /metrics HTTP/1.1\r\n\r\n", Some(Asked::Head)),
            ("GET / HTTP/1.1\r\n\r\n", Some(Asked::Elsewhere)),
            ("POST /metrics HTTP/1.1\r\n\r\n", Some(Asked::OtherMethod)),
            ("GET /metrics HTTP/1.1\r\nHost", None),
            ("", None),
            ("\u{16}\u{3}\u{1}", Some(Asked::Nonsense)),
            ("GET /metrics SPDY/1\r\n\r\n", Some(Asked::Nonsense)),
        ] {
            assert_eq!(understand(head.as_bytes()), expected, "{head:?}");
        }
        let many = "a: b\r\n".repeat(MAX_HEADERS + 1);
        let many = format!("GET /metrics HTTP/1.1\r\n{many}\r\n");
        assert_eq!(understand(many.as_bytes()), Some(Asked::TooMuch));
    }
}
