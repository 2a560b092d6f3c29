//! Where a request or an answer ends.

/// What a side sends and when the other side has had all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// A number of bytes.
    Bytes(u64),
    /// An HTTP/1.1 message: headers, and as many bytes as `Content-Length` says (RFC 9112, section 6).
    Http,
}

/// The longest headers that are looked at, in bytes.
const HEADERS: usize = 16 * 1024;

/// A message that is being received.
#[derive(Debug)]
pub struct Incoming {
    /// Bytes that are still to come; `None`: the headers have not ended yet.
    left: Option<u64>,
    headers: Vec<u8>,
    refused: bool,
}

/// How far a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// More is to come.
    Unfinished,
    /// All is there.
    Whole,
    /// It is no message of its kind, or an answer whose status is not 200 to 299.
    Wrong,
}

impl Incoming {
    /// A message of which nothing has come.
    pub fn new(extent: Extent) -> Incoming {
        let left = match extent {
            Extent::Bytes(bytes) => Some(bytes),
            Extent::Http => None,
        };
        Incoming { left, headers: Vec::new(), refused: false }
    }

    /// Takes what came.
    pub fn take(&mut self, bytes: &[u8]) {
        match &mut self.left {
            Some(left) => *left = left.saturating_sub(bytes.len() as u64),
            None => {
                self.headers.extend_from_slice(bytes);
                self.look_for_end();
            }
        }
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        match self.left {
            _ if self.refused => Progress::Wrong,
            Some(0) => Progress::Whole,
            _ => Progress::Unfinished,
        }
    }

    fn look_for_end(&mut self) {
        let Some(end) = self.headers.windows(4).position(|four| four == b"\r\n\r\n") else {
            self.refused = self.headers.len() > HEADERS;
            return;
        };
        let body = (self.headers.len() - end - 4) as u64;
        match length(&self.headers[..end]) {
            Some(length) => self.left = Some(length.saturating_sub(body)),
            None => self.refused = true,
        }
    }
}

/// The length of the body, if the headers are those of a request or of an answer that grants it.
fn length(headers: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(headers).ok()?;
    let mut lines = text.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let protocol = first.next()?;
    if protocol.starts_with("HTTP/1.") && !first.next()?.starts_with('2') {
        return None;
    }
    let named = |line: &str| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<u64>().ok())
    };
    match lines.find_map(named) {
        Some(length) => length,
        // A request without a length has no body; an answer without one lasts until the connection ends.
        None => (!protocol.starts_with("HTTP/")).then_some(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(extent: Extent, parts: &[&str]) -> Vec<Progress> {
        let mut incoming = Incoming::new(extent);
        let taken = parts.iter().map(|part| {
            incoming.take(part.as_bytes());
            incoming.progress()
        });
        taken.collect()
    }

    #[test]
    fn bytes_are_counted() {
        assert_eq!(progress(Extent::Bytes(5), &["abc", "de"]), [Progress::Unfinished, Progress::Whole]);
        assert_eq!(progress(Extent::Bytes(0), &[""]), [Progress::Whole]);
    }

    #[test]
    fn http_ends_where_its_length_says_however_it_is_cut() {
        let answer = "HTTP/1.1 200 OK\r\nServer: x\r\ncontent-length: 5\r\n\r\nhello";
        for cut in 1..answer.len() {
            let (first, second) = answer.split_at(cut);
            assert_eq!(progress(Extent::Http, &[first, second]), [Progress::Unfinished, Progress::Whole], "{cut}");
        }
        assert_eq!(progress(Extent::Http, &["GET / HTTP/1.1\r\nHost: x\r\n", "\r\n"])[1], Progress::Whole);
    }

    #[test]
    fn what_is_no_good_answer_is_wrong() {
        for text in [
            "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
        ] {
            assert_eq!(progress(Extent::Http, &[text]), [Progress::Wrong], "{text}");
        }
        assert_eq!(progress(Extent::Http, &[&"x".repeat(HEADERS + 1)]), [Progress::Wrong]);
    }
}
